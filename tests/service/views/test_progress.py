import io

import pytest
from rich.console import Console

from service.views.progress import Progress

RUNNING = {"loss": 0.123, "acc_dense": 0.456, "acc_pruned": 0.789, "epoch": 3, "status": "running"}
FINISHED = {"acc_dense": 0.9, "acc_pruned": 0.7, "seconds": 12.3, "epoch": 4, "status": "finished", "reason": ""}


def make(width=200, **given):
    terminal = given.pop("terminal", False)
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=terminal)
    return Progress(console, **{"title": "toy", "num_trials": 3, "objective": "acc", **given})


def test_each_ended_trial_is_a_line_with_the_best_so_far():
    with make(already_done=1) as progress:
        progress.note_best(0.8)
        progress.update("a", "sam + wcr #1", RUNNING, 4)
        progress.update("a", "sam + wcr #1", FINISHED, 4)
        progress.update("b", "sgd + none #0", {**RUNNING, "status": "out_of_memory", "reason": "of the GPU"}, 4)
        progress.update("c", "sgd + none #1", FINISHED | {"acc_pruned": 0.85}, 4)  # one more than planned
    lines = progress.console.file.getvalue().splitlines()
    assert [line.split() for line in lines] == [
        ["toy", "2/3", "sam", "+", "wcr", "#1", "dense", "0.900", "pruned", "0.700", "12.3", "s", "best", "0.800"],
        ["toy", "3/3", "sgd", "+", "none", "#0", "out", "of", "memory:", "of", "the", "GPU"],
        ["toy", "4/4", "sgd", "+", "none", "#1", "dense", "0.900", "pruned", "0.850", "12.3", "s", "best", "0.850"],
    ]


def test_a_message_names_the_sweep():
    with make() as progress:
        progress.say("its worker died [again]")
    assert progress.console.file.getvalue() == "toy: its worker died [again]\n"


@pytest.mark.parametrize("width", [36, 50, 120])
def test_the_live_table_shortens_labels_but_no_number(width):
    with make(width, terminal=True) as progress:
        progress.update("a", "s2sam + hoyer_square #7 and more words that do not matter", RUNNING, 40)
    shown = progress.console.file.getvalue()
    for number in ("3/40", "0.123", "0.456", "0.789"):
        assert number in shown


def test_an_ended_trial_leaves_the_live_table():
    with make(terminal=True) as progress:
        progress.update("a", "sam + wcr #1", RUNNING, 4)
        progress.update("a", "sam + wcr #1", FINISHED, 4)
        assert progress.rows == {}
    assert "pruned 0.700" in progress.console.file.getvalue()
