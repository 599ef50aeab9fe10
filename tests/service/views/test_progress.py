import dataclasses
import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from service.search.queue import Proposal
from service.views import progress as module
from service.views.progress import Progress, Running, seconds_left
from tests.service.conftest import make_config

RUNNING = {"loss": 0.123, "acc_dense": 0.456, "acc_pruned": 0.789, "epoch": 3, "status": "running"}
FINISHED = {"acc_dense": 0.9, "acc_pruned": 0.7, "seconds": 12.3, "epoch": 4, "status": "finished", "reason": ""}


def make(width=200, height=24, quiet=False, **given):
    terminal = given.pop("terminal", False)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=terminal, quiet=quiet)
    return Progress(console, **{"title": "toy", "num_trials": 3, "objective": "acc", **given})


def proposal(**fields):
    fields = {"max_epochs": 40, **fields}
    arm = f"{fields.get('optimizer', 'sam')} + {fields.get('regularizer', 'wcr')}"
    return Proposal(make_config(**fields), "search", arm, 0)


A, B, C = proposal(), proposal(optimizer="sgd", regularizer="none"), proposal(lam=1e-4)


def table(progress):
    """The words of each line of the live table."""
    console = Console(file=io.StringIO(), width=progress.console.width, force_terminal=False)
    console.print(progress._live.get_renderable())
    return [line.split() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def clock(monkeypatch):
    """Stands for the time, in seconds."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_each_ended_trial_is_a_line_with_the_best_so_far(toy):
    with make(already_done=1) as progress:
        progress.note_best(toy.state.trials[toy.trial((0.9, 0.8))])
        progress.update(A, RUNNING)
        progress.update(A, FINISHED)
        progress.update(B, {**RUNNING, "status": "out_of_memory", "reason": "of the GPU"})
        progress.update(C, FINISHED | {"acc_pruned": 0.85})  # one more than planned
    lines = progress.console.file.getvalue().splitlines()
    arm = ["sam", "+", "wcr", "lam"]
    measured = ["dense", "0.900", "pruned"]
    assert [line.split() for line in lines] == [
        ["toy", "2/3", *arm, "1e-05", "rho", "0.1", "lr", "0.1", *measured, "0.700", "12.3", "s", "best", "0.800"],
        ["toy", "3/3", "sgd", "+", "none", "lr", "0.1", "out", "of", "memory:", "of", "the", "GPU"],
        ["toy", "4/4", *arm, "0.0001", "rho", "0.1", "lr", "0.1", *measured, "0.850", "12.3", "s", "best", "0.850"],
    ]


def test_lines_stay_aligned_after_a_long_label():
    long = dataclasses.replace(B, arm="friendly_sam + weight_factorization" * 2)
    with make() as progress:
        for proposal in (long, A, long):
            progress.update(proposal, FINISHED)
    lines = progress.console.file.getvalue().splitlines()
    assert len({line.index(" dense ") for line in lines}) == 1


def test_a_message_names_the_sweep():
    with make() as progress:
        progress.say("its worker died [again]")
    assert progress.console.file.getvalue() == "toy: its worker died [again]\n"


def test_a_quiet_console_shows_only_messages():
    with make(quiet=True, terminal=True) as progress:
        progress.started(A)
        progress.update(A, RUNNING)
        progress.say("its worker died")
        progress.update(A, FINISHED)
    assert "toy: its worker died" in progress.console.file.getvalue()
    assert "0.7" not in progress.console.file.getvalue()


@pytest.mark.parametrize("width", [36, 50, 80, 120])
def test_the_live_table_shortens_labels_but_no_number(width):
    with make(width, terminal=True) as progress:
        progress.update(proposal(optimizer="s2sam", regularizer="hoyer_square"), RUNNING)
    shown = progress.console.file.getvalue()
    for number in ("3/40", "0.123", "0.456", "0.789"):
        assert number in shown


@pytest.mark.parametrize("width", [60, 80])
def test_a_line_fits_into_the_terminal(width):
    with make(width, terminal=True) as progress:
        progress.update(proposal(optimizer="s2sam", regularizer="hoyer_square"), FINISHED)
        line = progress._line(A, FINISHED)
    assert len(line) <= width
    assert line.endswith("dense 0.900  pruned 0.700    12.3 s")


def test_the_live_table_has_running_and_best_trials(clock):
    progress = make(num_trials=9, num_parallel=2, terminal=True)
    for number, pruned in enumerate((0.5, 0.8, 0.6, 0.9, 0.4, 0.7)):
        ended = proposal(lam=(number + 1) / 100)
        progress.started(ended)
        clock.seconds += 60
        progress.update(ended, FINISHED | {"acc_pruned": pruned})
    confirmation = Proposal(make_config(seed=3, read_test=True, max_epochs=40), "confirm", "sam + wcr", 0)
    progress.started(confirmation)
    progress.update(confirmation, RUNNING)
    progress.started(B)
    clock.seconds += 30
    title, header, *rows = table(progress)
    # three trials of a minute are left, of which two have run for half a minute: two minutes for two at once
    assert " ".join(title) == "toy: 6 of 9 trials ended, 2 running, 6 min, about 60 s left"
    assert header == ["running", "lam", "rho", "epoch", "loss", "acc", "dense", "pruned"]
    assert rows[0] == ["sam", "+", "wcr", "seed", "3", "1e-05", "0.1", "3/40", "0.123", "0.456", "0.789"]
    assert rows[1] == ["sgd", "+", "none", "-", "-", "0/40", "-", "-", "-"]
    assert rows[3] == ["best", "so", "far,", "on", "validation"]
    assert [row[-1] for row in rows[4:]] == ["0.900", "0.800", "0.700", "0.600", "0.500"]
    assert rows[4] == ["sam", "+", "wcr", "0.04", "0.1", "0.900", "0.900"]


def test_the_live_table_begins_with_the_number_of_trials(clock):
    progress = make(width=80, num_trials=100, already_done=12, terminal=True)
    assert table(progress) == [["toy:", "12", "of", "100", "trials", "ended,", "0", "running,", "0", "s"]]
    progress.started(A)
    clock.seconds = 5000
    progress.update(A, RUNNING)
    assert table(progress)[0] == [
        "toy:",
        "12",
        "of",
        "100",
        "trials",
        "ended,",
        "1",
        "running,",
        "83",
        "min,",
        "about",
        "1628.2",
        "h",
        "left",
    ]


def test_a_small_terminal_shows_the_last_updated_trials(clock):
    progress = make(height=9, terminal=True)
    for number in range(6):
        progress.started(proposal(lam=(number + 1) / 100))
    shown = table(progress)
    assert [row[3] for row in shown[2:-1]] == ["0.04", "0.05", "0.06"]
    assert shown[-1] == ["and", "3", "more"]


def test_an_ended_trial_leaves_the_live_table():
    with make(terminal=True) as progress:
        progress.update(A, RUNNING)
        progress.update(A, FINISHED)
        assert progress.running == {}
    assert "pruned 0.700" in progress.console.file.getvalue()


def test_a_dumb_terminal_gets_lines_only(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with make(terminal=True) as progress:
        progress.update(A, RUNNING)
        progress.update(A, FINISHED)
    assert progress.console.file.getvalue().count("\n") == 1
    assert "\x1b[" not in progress.console.file.getvalue()


# ---- the time left -----------------------------------------------------------------------------------------------


def running(begin, epoch=0, reported=0.0):
    return Running(A, begin, {"epoch": epoch}, reported)


@pytest.mark.parametrize(
    ("num_left", "trials", "durations", "num_parallel", "expected"),
    [
        (4, [running(90)], [], 1, None),  # nothing is known
        (1, [running(90, 20, 100)], [], 1, 10.0),  # 20 of 40 epochs in 10 s
        (4, [running(90)], [30.0, 50.0], 1, 150.0),  # three of 40 s, and 30 s of the one that runs
        (4, [running(90), running(80)], [40.0], 2, 65.0),  # two of 40 s, 30 s and 20 s, by two
        (2, [running(99), running(60)], [40.0], 2, 39.0),  # the last trial runs alone
        (1, [running(0)], [40.0], 1, 0.0),  # longer than the others
    ],
)
def test_the_time_left_follows_from_the_trials_so_far(num_left, trials, durations, num_parallel, expected):
    assert seconds_left(num_left, trials, durations, num_parallel, now=100) == expected
