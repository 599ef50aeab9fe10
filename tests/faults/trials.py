"""What may happen to a trial."""

import signal
import time

import pytest

from service.records.events import EventLog
from service.records.recorder import Recorder
from service.records.state import State
from tests._digits import LONGER, assert_as_undisturbed, end, events, kill_worker, num_repeated, run, start, wait_until


@pytest.mark.parametrize(
    ("name", "sig"), [("worker killed (SIGKILL)", signal.SIGKILL), ("worker given notice (SIGTERM)", signal.SIGTERM)]
)
def test_a_worker_that_dies(runs, undisturbed_longer, fault_row, name, sig):
    process = start(runs, *LONGER)
    wait_until(lambda: events(runs)["evaluation"] >= 3, process)
    before, died = running(runs), time.time()
    kill_worker(process, sig)
    assert end(process, timeout=240) == 0
    assert_as_undisturbed(runs, undisturbed_longer)
    assert num_repeated(runs) == 0
    assert "its worker died, it continues from its last checkpoint" in (runs / "shown").read_text()
    seconds = goes_on(runs, died, before)
    fault_row(name, "nothing", "at most one checkpoint interval", f"automatic, after {seconds:.0f} s")


def running(runs):
    return {key for key, trial in State.read(runs / "digits").trials.items() if trial.status == "running"}


def goes_on(runs, since, before):
    """Seconds from `since` until every trial that ran before has come on by a evaluation."""
    later = {}
    for entry, _ in EventLog.read(runs / "digits" / "events.jsonl"):
        if entry["event"] in ("evaluation", "end") and entry["time"] > since:
            later.setdefault(entry["trial"], entry["time"] - since)
    return max(later[key] for key in before)


def test_a_worker_that_dies_again_and_again(runs, with_fault, fault_row):
    """One arm's trials kill their worker in the third epoch: the others end, and it is said which were lost."""
    fault = """
        import os, signal
        run_epoch = Training.run_epoch
        def dies(self, *args):
            if self.config.optimizer == "sam" and self.epoch == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return run_epoch(self, *args)
        Training.run_epoch = dies
    """
    run(runs, "--confirm", "0", env=with_fault(fault))
    trials = State.read(runs / "digits").trials.values()
    assert {(t.config["optimizer"], t.status) for t in trials} == {("sgd", "finished"), ("sam", "lost")}
    assert {t.evaluations[-1]["epoch"] for t in trials if t.status == "lost"} == {2}
    fault_row(
        "worker dies at the same place each time",
        "these trials, recorded as lost with the reason",
        "up to two epochs in each of the two repeated attempts",
        "automatic: the other trials continue at once",
    )


def test_an_exception_in_a_method_and_the_retry_after_its_mending(runs, undisturbed, with_fault, fault_row):
    fault = """
        run_epoch = Training.run_epoch
        def fails(self, *args):
            if self.config.optimizer == "sam" and self.epoch == 3:
                raise RuntimeError("a fault in user code")
            return run_epoch(self, *args)
        Training.run_epoch = fails
    """
    run(runs, env=with_fault(fault))
    trials = State.read(runs / "digits").trials.values()
    assert {(t.config["optimizer"], t.status) for t in trials} == {("sgd", "finished"), ("sam", "error")}
    assert {t.reason for t in trials if t.status == "error"} == {"RuntimeError: a fault in user code"}
    retried = Recorder(runs / "digits")
    assert len(retried.retry()) == sum(t.status == "error" for t in trials)
    retried.close()
    run(runs)
    ours, theirs = (State.read(folder / "digits").trials for folder in (runs, undisturbed))
    searched = {key for key, trial in theirs.items() if trial.phase == "search"}
    assert searched <= set(ours)
    for key in searched:
        assert (ours[key].status, ours[key].pruned) == (theirs[key].status, theirs[key].pruned)
    fault_row(
        "an exception in user code",
        "these trials, recorded with the traceback; `sweeps retry NAME` repeats them",
        "the failed trials, when they are retried",
        "automatic: the other trials continue at once",
    )


def test_out_of_memory_of_the_host(runs, with_fault, fault_row):
    """Ray's monitor kills a worker that takes too much; the limit is set a little above what is in use here."""
    used, total = memory()
    fault = """
        import numpy
        run_epoch = Training.run_epoch
        def eats(self, *args):
            if self.config.optimizer == "sam" and self.epoch == 3:
                self.eaten = [numpy.ones(2**27) for _ in range(6)]  # 6 GiB
                import time; time.sleep(5)
            return run_epoch(self, *args)
        Training.run_epoch = eats
    """
    limit = (used + 5 * 2**30) / total
    if limit > 0.9:
        pytest.skip("too little memory is free here")
    more = {"RAY_memory_usage_threshold": f"{limit:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    run(runs, "--confirm", "0", "--concurrent", "1", env=with_fault(fault, **more))
    trials = State.read(runs / "digits").trials.values()
    assert {(t.config["optimizer"], t.status) for t in trials} == {("sgd", "finished"), ("sam", "lost")}
    assert all("memory" in t.reason.lower() for t in trials if t.status == "lost")
    fault_row(
        "a trial exhausts the host's memory",
        "that trial, recorded as lost with the reason (as out_of_memory if it was a GPU's memory)",
        "that trial, up to two more attempts",
        "automatic: the other trials continue at once",
    )


def memory():
    """Bytes used and there."""
    with open("/proc/meminfo") as file:
        lines = dict(line.split(":") for line in file)
    total, free = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return total - free, total


def test_a_loss_that_is_not_finite(runs, fault_row):
    run(runs, "--opt", "lr=1e6", "--trials", "2", expect=1)
    trials = State.read(runs / "digits").trials.values()
    assert {trial.status for trial in trials} == {"diverged"}
    fault_row(
        "a loss that is not finite",
        "nothing: it is a result, recorded with step and loss",
        "nothing",
        "automatic, at once",
    )
