import os
import pickle
from types import SimpleNamespace

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from ray.tune.search import Searcher

from service.cluster.tune_adapter import Death, TrialSource, fault_of
from service.search.proposals import Next, Proposal
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
        ("The worker died. Worker exit detail: killed by SIGKILL", Death.WORKER, "killed by SIGKILL"),
        ("The actor is dead because its node has died. Node Id: 1", Death.HOST, "its node has died. Node Id: 1"),
        ("Worker exit detail: Some common causes include: (1) memory", Death.WORKER, ""),
    ],
)
def test_the_fault_of_a_lost_trial(tmp_path, detail, death, reason):
    (tmp_path / "error.txt").write_text("Failure # 0\nan earlier one\n" + FAULT.format(detail=detail))
    fault = fault_of(SimpleNamespace(error_file=str(tmp_path / "error.txt")))
    assert fault.death == death
    assert fault.reason.endswith(reason)


@pytest.mark.parametrize("error_file", [None, "/nowhere/error.txt"])
def test_a_fault_without_text(error_file):
    fault = fault_of(SimpleNamespace(error_file=error_file))
    assert (fault.death, fault.reason) == (Death.WORKER, "its worker died")
