"""A short trial that tests start, kill and finish."""

import pytest

from tests.trainables.runner._runs import finish, without_seconds
from trainables.runner import TrialRunner


@pytest.fixture
def config(tiny):
    return tiny(
        max_epochs=4, num_evaluations=4, optimizer="sam", regularizer="hoyer_square", lam=1e-4, lr_schedule="one_cycle"
    )


@pytest.fixture
def start(config, make_task, tmp_path):
    """A function: a new runner of the trial in the folder `name`, as after a kill."""
    return lambda name="trial", config=config, **more: TrialRunner(
        config, tmp_path / name, lambda: make_task(config), **more
    )


@pytest.fixture
def undisturbed(start):
    return without_seconds(finish(start("undisturbed")))
