import copy

import pytest
import torch

from trainables.early_stopping import EarlyStopping
from trainables.loop import Training
from trainables.pruning import Evaluation


def test_stops_after_patience_evaluations_without_a_better_one():
    stopping, stopped = EarlyStopping(2), []
    for epoch, value in enumerate([0.3, 0.5, 0.4, 0.6, 0.6, 0.2]):
        stopping.update(value, {"epoch": epoch})
        stopped.append(stopping.stopped)
    assert stopped == [False, False, False, False, False, True]
    assert stopping.best_state == {"epoch": 3}  # of the two that reached 0.6, the first


def test_best_state_is_a_copy():
    stopping, weight = EarlyStopping(1), torch.zeros(2)
    stopping.update(0.5, {"model": {"weight": weight}})
    weight += 1
    assert stopping.best_state["model"]["weight"].tolist() == [0, 0]


def test_without_patience_nothing_is_kept():
    stopping = EarlyStopping(None)
    for value in (0.5, 0.1, 0.1):
        stopping.update(value, {"weight": 1})
    assert not stopping.stopped
    assert stopping.best_state is None


def test_restored_state_continues_to_count():
    stopping, restored = EarlyStopping(2), EarlyStopping(2)
    stopping.update(0.5, {"epoch": 0})
    stopping.update(0.4, {"epoch": 1})
    restored.load_state_dict(stopping.state_dict())
    restored.update(0.3, {"epoch": 2})
    assert restored.stopped
    assert restored.best_state == {"epoch": 0}


@pytest.mark.parametrize(
    ("values", "epochs", "best_epoch"),
    [
        ([0.3, 0.5, 0.4, 0.5, 0.9, 0.9], 4, 2),  # stopped early
        ([0.3, 0.4, 0.5, 0.6, 0.8, 0.7], 6, 5),  # trained to the end
    ],
)
def test_training_ends_with_the_weights_of_the_best_evaluation(
    make_task, tiny, monkeypatch, values, epochs, best_epoch
):
    config = tiny(max_epochs=6, num_evaluations=6, patience=2)
    training = Training(make_task(config), config)
    served = iter(values)

    def evaluate(levels, split="validation"):
        value = next(served)
        return Evaluation({level: {"acc": value} for level in levels}, {}, {})

    monkeypatch.setattr(training, "evaluate", evaluate)
    best = None
    while not training.finished:
        training.train_to_evaluation()
        if training.epoch == best_epoch:
            best = copy.deepcopy(training.model.state_dict())
    assert training.epoch == epochs
    torch.testing.assert_close(training.model.state_dict(), best, rtol=0, atol=0)
