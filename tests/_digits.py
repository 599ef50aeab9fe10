"""A small sweep on digits, as a user runs it, in a process of its own; and everything that it must have left."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna

from service.records.events import EventLog
from service.records.state import State
from service.search.storage import open_storage
from service.tracking.connection import default_tracking_uri

REPOSITORY = Path(__file__).parents[1]
SMALL = ["--epochs", "8", "--evaluations", "4", "--model", "width=4", "--trials", "2", "--search-seeds", "1"]
SMALL += ["--tuning", "paper", "--seeds", "1", "--no-export"]  # 1 + 3 x 2 trials of the search, 4 on an unseen seed
LONGER = ["--epochs", "40"]  # trials of some seconds
ARMS = ["--optimizer", "sgd", "--optimizer", "sam", "--regularizer", "none", "--regularizer", "wcr"]


def command(runs, *flags):
    return [sys.executable, str(REPOSITORY / "sweeps" / "digits.py"), "--runs", str(runs), *SMALL, *ARMS, *flags]


def run(runs, *flags, expect=0, timeout=600, **more):
    """Run the sweep to its end; what it printed."""
    done = subprocess.run(command(runs, *flags), cwd=runs, capture_output=True, text=True, timeout=timeout, **more)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def start(runs, *flags, shown=None, **more):
    """The sweep as a process that runs; its output goes to the file `shown`, by default in `runs`."""
    with (shown or runs / "shown").open("a") as shown:
        return subprocess.Popen(command(runs, *flags), cwd=runs, stdout=shown, stderr=subprocess.STDOUT, **more)


def events(runs, name="digits"):
    """How many of each kind the event log has."""
    return Counter(entry["event"] for entry, _ in EventLog.read(runs / name / "events.jsonl"))


def wait_until(when, process=None, timeout=300):
    """Until `when()` is true, which must be before the process ends; what it was."""
    deadline = time.monotonic() + timeout
    while not (seen := when()):
        assert time.monotonic() < deadline, "waited for in vain"
        assert process is None or process.poll() is None, f"the sweep ended too early, exit code {process.returncode}"
        time.sleep(0.02)
    return seen


def end(process, sig=None, timeout=180):
    """Send it a signal, if any, and wait for its end; the exit code."""
    try:
        if sig is not None:
            process.send_signal(sig)
        return process.wait(timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def kill(process):
    """Kill it, and wait until Ray's own processes and the workers below it have noticed and ended."""
    pids = below(process.pid)
    assert end(process, signal.SIGKILL) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)


def workers(process):
    """Pids of the processes that train trials of this sweep: Ray's workers below its own Ray."""
    return [pid for pid in below(process.pid) if "ResourceTrainable" in command_line(pid)]


def kill_worker(process, sig=signal.SIGKILL):
    """Send a signal to a process that trains. A worker between two trials has another name, so wait for one."""
    os.kill(wait_until(lambda: workers(process), process)[0], sig)


def below(pid):
    """Every process that descends from `pid`."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def results(runs, name="digits"):
    """Everything that a sweep says, but for seconds: those differ from run to run."""
    records = State.read(runs / name)
    return {
        key: (
            t.phase,
            t.arm,
            t.number,
            t.config,
            t.status,
            [{**r, "seconds": 0} for r in t.evaluations],
            t.pruned,
        )
        for key, t in records.trials.items()
    }


def studies(runs, name="digits"):
    """Every trial of every study: number, state, parameters, value."""
    storage = open_storage(runs / name / "study.log")
    return {
        study.study_name: [
            (t.number, t.state.name, t.params, t.value)
            for t in optuna.load_study(study_name=study.study_name, storage=storage).get_trials()
        ]
        for study in optuna.get_all_study_summaries(storage)
    }


def recorded(runs, name="digits", uri=None):
    """What MLflow has: for each run its trial, its status and its points (metric, step, value), but for seconds."""
    from mlflow import MlflowClient

    client = MlflowClient(uri or default_tracking_uri(runs))
    experiment = client.get_experiment_by_name(name)
    found = []
    for one in client.search_runs([experiment.experiment_id]):
        points = [
            (metric, point.step, point.value if metric != "seconds" else 0.0)
            for metric in one.data.metrics
            for point in client.get_metric_history(one.info.run_id, metric)
        ]
        found.append((one.data.tags["trial"], one.info.status, sorted(points)))
    return sorted(found)


def assert_as_undisturbed(runs, undisturbed, uri=None):
    """EventLog, studies and MLflow have what those of an undisturbed sweep have, each thing once, and no trial is left
    running. MLflow's parent run has the winner's value at each end of the sweep, so it may have more points."""
    assert results(runs) == results(undisturbed)
    assert studies(runs) == studies(undisturbed)
    assert {state for trials in studies(runs).values() for _, state, *_ in trials} <= {"COMPLETE", "FAIL"}
    ours, theirs = recorded(runs, uri=uri), recorded(undisturbed)
    children = [one for one in ours if one[0] != "all"]
    assert children == [one for one in theirs if one[0] != "all"]
    assert [one[:2] for one in ours] == [one[:2] for one in theirs]
    for trial, _, points in ours:
        assert len({point[:2] for point in points}) == len(points), trial


def num_repeated(runs, name="digits"):
    """Starts, evaluations and ends that the event log has twice: none, however often a sweep was disturbed."""
    seen = Counter(
        (e["event"], e["trial"], e.get("report", {}).get("epoch"))
        for e, _ in EventLog.read(runs / name / "events.jsonl")
        if e["event"] in ("start", "evaluation", "end")
    )
    return sum(count - 1 for count in seen.values())


def environment(**changes):
    """This process's environment with these changes; None removes a variable."""
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
