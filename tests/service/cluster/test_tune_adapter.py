import contextlib
import os
import pickle
from types import SimpleNamespace

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from ray.tune.search import Searcher

from service.cluster.tune_adapter import MAX_ATTEMPTS, Cause, TrialRecorder, TrialSource, interruption_of
from service.search.queue import Next, Proposal
from tests.service._sweeps import make


def source_of(*items):
    proposals = iter(items)
    return TrialSource(SimpleNamespace(next=lambda: next(proposals)))


def test_proposals_reach_tune_as_plain_configurations():
    config = make().trial
    source = source_of(Proposal(config, "search", "sgd + none", 0), Next.WAIT, Next.FINISHED)
    assert source.suggest("0") == config.model_dump(mode="json")
    assert source.suggest("1") is None
    assert source.suggest("1") == Searcher.FINISHED


def test_nothing_of_a_source_is_pickled():
    assert pickle.loads(pickle.dumps(source_of())).__dict__ == {}


FAULT = """Failure # 1 (occurred at 2026-01-01_00-00-00)
The actor died unexpectedly before finishing this task.
{detail}
"""


@pytest.mark.parametrize(
    ("detail", "death", "reason"),
    [
        ("The worker died. Worker exit detail: killed by SIGKILL", Cause.WORKER_DIED, "killed by SIGKILL"),
        ("The actor is dead because its node has died. Node Id: 1", Cause.HOST_DIED, "its node has died. Node Id: 1"),
        ("Worker exit detail: Some common causes include: (1) memory", Cause.WORKER_DIED, ""),
    ],
)
def test_the_fault_of_a_lost_trial(tmp_path, detail, death, reason):
    (tmp_path / "error.txt").write_text("Failure # 0\nan earlier one\n" + FAULT.format(detail=detail))
    fault = interruption_of(SimpleNamespace(error_file=str(tmp_path / "error.txt")))
    assert fault.cause == death
    assert fault.reason.endswith(reason)


@pytest.mark.parametrize("error_file", [None, "/nowhere/error.txt"])
def test_a_fault_without_text(error_file):
    fault = interruption_of(SimpleNamespace(error_file=error_file))
    assert (fault.cause, fault.reason) == (Cause.WORKER_DIED, "its worker died")


class Calls:
    """Stands for the records, phases and progress of a sweep, and notes what is called, with which arguments."""

    def __init__(self, config, folder):
        self.calls, self.config = [], config
        report = {"status": "lost", "epoch": 1, "reason": ""}
        record = SimpleNamespace(config=config.model_dump(mode="json"), report=report, done=False, unmeasured="")
        self.state = SimpleNamespace(trials={config.key: record}, trial_folder=lambda key: folder)

    def stopping_on_storage_faults(self):
        return contextlib.nullcontext()

    def has_ended(self, key):
        return True

    def proposal(self, key):
        return Proposal(self.config, "search", "sgd + none", 0)

    def update(self, *arguments):
        """Of the progress: not noted."""

    def __getattr__(self, name):
        def note(*arguments, is_complete=None, failure=None, **keywords):
            self.calls.append((name, *arguments, *([failure] if failure else []), *filter(None, keywords.values())))

        return note


@pytest.fixture
def config():
    return make().trial


@pytest.fixture
def report_to(config, tmp_path):
    """A function: what a recorder calls when a trial reports a status."""
    calls = Calls(config, tmp_path)
    recorder = TrialRecorder(calls, calls, calls)

    def report(status, **fields):
        calls.calls.clear()
        recorder.on_trial_result(0, [], None, {"key": config.key, "status": status, "reason": "", "epoch": 1, **fields})
        return calls.calls

    return report


def test_evaluations_are_recorded_as_reported(report_to, config):
    evaluation = {"epoch": 1, "loss": 0.5, "acc_pruned": 0.9}
    assert report_to("running", evaluation=evaluation) == [("trial_evaluated", config.key, evaluation)]


def test_end_of_a_trial_is_read_from_its_folder(report_to, config):
    assert report_to("finished") == [("trial_ended", config.key)]
    failure = ("diverged", "diverged at step 3")
    assert report_to("diverged", reason="diverged at step 3") == [("trial_ended", config.key, failure)]


def test_storage_failure_stops_the_sweep(report_to):
    ((name, reason),) = report_to("storage_failed", reason="the trial's files cannot be read or written: disk full")
    assert name == "stop"
    assert reason.startswith("the trial's files cannot be read or written: disk full. No more trials are started. ")


def test_superseded_trial_runs_again_and_is_lost_after_several_attempts(report_to, config):
    for _ in range(MAX_ATTEMPTS - 1):
        assert report_to("superseded", reason="another process")[-1] == ("repeat", config.key)
    assert report_to("superseded", reason="another process") == [("trial_ended", config.key, "another process")]


def test_a_trial_that_starts_is_shown(config, tmp_path):
    calls = Calls(config, tmp_path)
    TrialRecorder(calls, calls, calls).on_trial_start(0, [], SimpleNamespace(config=config.model_dump(mode="json")))
    ((name, proposal),) = calls.calls
    assert (name, proposal.key) == ("started", config.key)
