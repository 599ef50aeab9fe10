import pytest

from trainables.loop import Training


@pytest.fixture(scope="module")
def trained(tiny, make_task):
    """A task and a model that has learned something, in training mode."""
    config = tiny(model={"width": 4, "depth": 2}, opt={"lr": 0.1}, max_epochs=4)
    task = make_task(config)
    training = Training(task, config)
    for _ in range(4):
        training.run_epoch()
    return task, training.model
