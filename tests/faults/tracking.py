"""What may happen to the tracking server, while a sweep runs and when it has ended."""

import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time

import pytest
from mlflow import MlflowClient

from benchmarks._servers import LOST, MlflowServer, Proxy
from service.records.events import EventLog
from service.records.state import State
from service.tracking.shipper import Shipper
from tests._digits import REPOSITORY, command, environment, events, wait_until
from tests._tracking import assert_as_the_events_say

OUTAGE = 120.0  # seconds
MANY = ["--optimizer", "sam", "--regularizer", "wcr", "--trials", "100", "--search-seeds", "1", "--confirm", "0"]
MANY += ["--concurrent", "2"]
SHORT = ["--epochs", "8", "--evaluations", "3"]  # 2 s a trial
LESS_SHORT = [
    "--epochs",
    "20",
    "--evaluations",
    "3",
]  # 5 s: a hundred of them on two cores outlast the outage by two minutes


@pytest.fixture
def server(tmp_path):
    made = MlflowServer(tmp_path)
    yield made
    made.stop()


def start(runs, uri, *flags):
    line = [
        sys.executable,
        str(REPOSITORY / "sweeps" / "digits.py"),
        "--runs",
        str(runs),
        "--tracking-uri",
        uri,
        *flags,
    ]
    with (runs / "shown").open("a") as shown:
        return subprocess.Popen(line, cwd=runs, stdout=shown, stderr=subprocess.STDOUT, env=environment())


def start_sync(runs, uri):
    line = [sys.executable, "-m", "sweeps", "sync", "digits", "--runs", str(runs), "--tracking-uri", uri]
    return subprocess.Popen(line, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def sync(runs, uri):
    with start_sync(runs, uri) as process:
        shown = process.communicate(timeout=600)[0]
    assert process.returncode == 0, shown
    return shown


def num_runs(server):
    """How many runs its database has; asked of the file, so that the server's own work is not disturbed."""
    with sqlite3.connect(f"file:{server.folder / 'server.db'}?mode=ro", uri=True) as database:
        return database.execute("select count(*) from runs").fetchone()[0]


def spans(runs):
    """Of each trial: (when it started, when it ended, its own seconds of training)."""
    began, found = {}, []
    for entry, _ in EventLog.read(runs / "digits" / "events.jsonl"):
        if entry["event"] == "start":
            began[entry["trial"]] = entry["time"]
        elif entry["event"] == "end":
            found.append((began[entry["trial"]], entry["time"], entry["report"]["seconds"]))
    return found


def compared(a, b):
    """The ratio of the medians of a and b, and that of their maxima."""
    return statistics.median(a) / statistics.median(b), max(a) / max(b)


def test_an_outage_of_two_minutes(runs, server, fault_row):
    """All trials do the same work, so their seconds are compared: of those wholly within the outage with those wholly
    outside it. How much of a difference is the machine's own is what those before and those after it differ by."""
    server.start()
    process = start(runs, server.uri, *MANY, *LESS_SHORT)
    wait_until(lambda: (runs / "digits").exists() and events(runs)["end"] >= 20, process, timeout=900)
    server.stop()
    began = time.time()
    before = num_runs(server)
    wait_until(lambda: time.time() > began + OUTAGE, process, timeout=2 * OUTAGE)
    assert num_runs(server) == before
    server.start()
    back = time.time()
    wait_until(lambda: num_runs(server) > before, timeout=120)
    first = time.time() - back
    assert process.wait(1200) == 0
    assert "cannot be reached" in (runs / "shown").read_text()
    shipper = Shipper(runs / "digits", server.uri)
    assert shipper.num_waiting == 0, (runs / "shown").read_text()
    assert num_runs(server) == 101
    assert_as_the_events_say(MlflowClient(server.uri), runs / "digits")
    inside = [s for start, end, s in spans(runs) if start > began and end < began + OUTAGE]
    earlier = [s for _, end, s in spans(runs) if end < began]
    later = [s for start, _, s in spans(runs) if start > back]
    during, after = compared(inside, earlier + later), compared(later, earlier)
    fault_row(
        "tracking server down for 2 minutes",
        "nothing: 100 runs, each point once",
        "nothing",
        f"automatic: MLflow has the next run {first:.0f} s after the server's return. The {len(inside)} trials during "
        f"the outage took {during[0]:.3f} of the time of the others (ratio of medians; of the longest: {during[1]:.3f})"
        f", those after it {after[0]:.3f} of the time of those before it (of the longest: {after[1]:.3f})",
    )


def test_a_server_that_is_there_now_and_then(runs, server, fault_row):
    """Not at the start, for a while, not at the end: `sync` sends what is missing."""
    process = start(runs, server.uri, *MANY, *SHORT, "--trials", "40")
    wait_until(lambda: (runs / "digits").exists() and events(runs)["end"] >= 3, process)
    server.start()
    wait_until(lambda: (runs / "digits" / "shipped.json").exists(), process)
    wait_until(lambda: num_runs(server) >= 4, process)
    server.stop()
    assert process.wait(300) == 0
    shown = (runs / "shown").read_text()
    left = Shipper(runs / "digits", server.uri).num_waiting
    assert f"{left} events are not in MLflow yet" in shown
    server.start()
    begin = time.monotonic()
    assert f"{left} of {left} entries sent" in sync(runs, server.uri)
    assert_as_the_events_say(MlflowClient(server.uri), runs / "digits")
    fault_row(
        "tracking server down at the start and at the end",
        "nothing: MLflow has each run and point once",
        "nothing",
        f"run `python -m sweeps sync`: it sent {left} records in {time.monotonic() - begin:.0f} s",
    )


def test_a_server_that_takes_two_seconds_a_call(runs, server, fault_row):
    server.start()

    def interfere(method, path, body):
        time.sleep(2)

    with Proxy(server.port, interfere) as proxy:
        process = start(runs, proxy.uri, *MANY, *SHORT, "--trials", "6")
        assert process.wait(600) == 0
        left = Shipper(runs / "digits", proxy.uri).num_waiting
        took = [s for *_, s in spans(runs)]
        proxy.interfere = lambda method, path, body: None
        sync(runs, proxy.uri)
    assert_as_the_events_say(MlflowClient(server.uri), runs / "digits")
    assert len(State.read(runs / "digits").finished("search")) == 6
    fault_row(
        "tracking server that takes 2 s for each call",
        f"nothing: `python -m sweeps sync` sent the {left} records that were missing when the sweep ended",
        "nothing",
        f"trials are not delayed: {statistics.median(took):.1f} s (median)",
    )


def test_killed_while_calls_are_answered(runs, server, fault_row):
    """The process that ships dies again and again, each time behind a call that the server has carried out."""
    assert subprocess.run(command(runs), cwd=runs, capture_output=True, timeout=240).returncode == 0
    (runs / "digits" / "shipped.json").unlink()
    server.start()
    killed, seen, lock = [], [0], threading.Lock()

    def interfere(method, path, body):
        with lock:
            seen[0] += 1
            if method == "POST" and seen[0] >= 5 + 3 * len(killed) and len(killed) < 8:
                os.kill(process.pid, signal.SIGKILL)
                killed.append(path.rsplit("/", 1)[-1])
                seen[0] = 0
                return LOST
        return None

    with Proxy(server.port, interfere) as proxy:
        for _ in range(30):
            process = start_sync(runs, proxy.uri)
            process.communicate(timeout=300)
            if process.returncode == 0:
                break
        assert process.returncode == 0
        assert len(killed) == 8
        assert Shipper(runs / "digits", proxy.uri).num_waiting == 0
    assert_as_the_events_say(MlflowClient(server.uri), runs / "digits")
    fault_row(
        "`sweeps sync` killed 8 times between a call to the tracking server and the answer",
        "nothing: one run for each trial, each point once",
        "nothing",
        f"run `sweeps sync` again (killed in the calls {', '.join(sorted(set(killed)))})",
    )
