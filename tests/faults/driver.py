"""What may happen to the process that runs a sweep, and to its machine."""

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections import Counter

import pytest

from service.records.events import EventLog
from tests._digits import assert_as_undisturbed, end, events, kill, num_repeated, run, start, wait_until

NUM_KILLS, NUM_SEARCH = 20, 13  # one trial of sgd + none, which has nothing to search, and four of each other
LONG = ["--epochs", "40", "--trials", "4"]


@pytest.fixture(scope="module")
def undisturbed_long(tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed-long")
    run(runs, *LONG, timeout=900)
    return runs


def test_killed_at_random_moments(runs, undisturbed_long, fault_row):
    """Every fourth time within 10 seconds of its start, else within 8 of its first trial's: stages of all kinds."""
    rng, found = random.Random(0), []
    while len(found) < NUM_KILLS:
        before = events(runs)["run"]
        process = start(runs, *LONG)
        if len(found) % 4:
            while process.poll() is None and events(runs)["run"] == before:
                time.sleep(0.02)
        try:
            process.wait(rng.uniform(0, 8 if len(found) % 4 else 10))
        except subprocess.TimeoutExpired:
            assert end(process, signal.SIGKILL) == -signal.SIGKILL  # its workers live on for a while
            found.append(events(runs))
        else:
            assert process.returncode == 0  # it has come to its end before its moment
    assert "Best: " in run(runs, *LONG)
    assert_as_undisturbed(runs, undisturbed_long)
    assert num_repeated(runs) == 0
    stages = {
        "before the first trial": sum(not n["start"] for n in found),
        "in the search": sum(n["start"] > 0 and n["end"] < NUM_SEARCH for n in found),
        "in the confirmation": sum(n["end"] >= NUM_SEARCH and not n["summary"] for n in found),
        "at the end or after it": sum(n["summary"] > 0 for n in found),
    }
    fault_row(
        f"driver killed at {NUM_KILLS} random moments of one sweep",
        "nothing",
        "at most one checkpoint interval of each trial that ran",
        f"run the same command again (kills: {', '.join(f'{count} {stage}' for stage, count in stages.items())})",
    )


def header_only(runs):
    return events(runs)["sweep"] == 1 and not events(runs)["start"]


def on_its_last_interval(runs):
    """Whether a trial that has not ended has reported all of its evaluations but the last."""
    entries = [entry for entry, _ in EventLog.read(runs / "digits" / "events.jsonl")]
    ended = {e["trial"] for e in entries if e["event"] == "end"}
    counts = Counter(e["trial"] for e in entries if e["event"] == "evaluation" and e["trial"] not in ended)
    return max(counts.values(), default=0) >= 3


def result_without_record(runs):
    """A trial's result lies in its folder and the event log does not have it."""
    recorded = {e["trial"] for e, _ in EventLog.read(runs / "digits" / "events.jsonl") if e["event"] == "end"}
    return {path.parent.name for path in runs.glob("digits/trials/*/result.json")} - recorded


def hold(process, runs, when):
    """Stop the driver so that a trial ends behind its back.

    A driver that is stopped before it has asked a trial for its last interval waits in vain, and is let go again.
    """
    for _ in range(10):
        wait_until(lambda: on_its_last_interval(runs), process)
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: when(runs), timeout=15)
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.2)
    raise AssertionError("no trial ended while the driver was stopped")


@pytest.mark.parametrize(
    ("name", "when", "stopped"),
    [
        ("driver killed before its first trial", header_only, False),
        ("driver killed between a trial's end and its record", result_without_record, True),
        ("driver killed while it sends the last records to MLflow", lambda runs: events(runs)["summary"] == 1, False),
    ],
)
def test_killed_at_this_moment(runs, undisturbed, fault_row, name, when, stopped):
    process = start(runs)
    try:
        if stopped:
            hold(process, runs, when)
        else:
            wait_until(lambda: when(runs), process)
    finally:
        kill(process)
    run(runs)
    assert_as_undisturbed(runs, undisturbed)
    assert num_repeated(runs) == 0
    fault_row(name, "nothing", "at most one checkpoint interval of each trial that ran", "run the same command again")


def test_its_machine_is_lost_and_the_storage_kept(runs, undisturbed, tmp_path, fault_row):
    process = start(runs)
    wait_until(lambda: events(runs)["end"] >= 2, process)
    kill(process)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "digits").mkdir(parents=True)
    shutil.copytree(runs / "digits", elsewhere / "digits", dirs_exist_ok=True)
    shutil.rmtree(runs)
    run(elsewhere)  # the other machine has another MLflow, and is sent everything
    assert_as_undisturbed(elsewhere, undisturbed)
    assert num_repeated(elsewhere) == 0
    fault_row(
        "driver's machine lost, its storage kept",
        "nothing; if MLflow's database was on that machine, all records are sent to the new one",
        "at most one checkpoint interval of each trial that ran",
        "run the same command again",
    )


def test_it_is_terminated(runs, undisturbed, fault_row):
    process = start(runs)
    wait_until(lambda: events(runs)["end"] >= 1, process)
    assert end(process, signal.SIGTERM) == 130
    assert "The same command continues from here." in (runs / "shown").read_text()
    run(runs)
    assert_as_undisturbed(runs, undisturbed)
    assert num_repeated(runs) == 0
    fault_row(
        "driver terminated (SIGTERM, Ctrl-C, `python -m sweeps stop`)",
        "nothing",
        "at most one checkpoint interval of each trial that ran",
        "run the same command again",
    )
