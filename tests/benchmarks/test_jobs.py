"""Jobs that each write one line of results."""

import dataclasses

import pytest

from benchmarks._jobs import config_key, run
from benchmarks._measure import RESULTS
from service.records.events import EventLog
from trainables.config import TrialConfig


def lines(results):
    return [entry for entry, _ in EventLog.read(results)]


@dataclasses.dataclass(frozen=True)
class FakeJob:
    name: str
    log: list
    key: str = "k"
    labels: dict = dataclasses.field(default_factory=lambda: {"seed": 100})
    error: Exception | None = None

    def run(self):
        self.log.append(self.name)
        if self.error:
            raise self.error
        return {"value": 0.5, "cpu_s": 1.0}


def test_a_job_that_has_a_line_is_not_run_again(tmp_path):
    results, log = tmp_path / "results.jsonl", []
    assert run([FakeJob("a", log), FakeJob("b", log)], results, num_processes=1) == []
    before = results.read_bytes()
    results.write_bytes(before + b'{"event": "job", "job": "c", ')  # killed within a line
    run([FakeJob(name, log) for name in "abc"], results, num_processes=1)
    assert log == ["a", "b", "c"]
    assert results.read_bytes().startswith(before)
    assert [(line["job"], line["seed"], line["value"]) for line in lines(results)] == [(j, 100, 0.5) for j in "abc"]


def test_a_job_of_another_configuration_is_refused(tmp_path):
    results, log = tmp_path / "results.jsonl", []
    run([FakeJob("a", log)], results, num_processes=1)
    with pytest.raises(ValueError, match=r"must hold jobs of one configuration and length, got another one for a;"):
        run([FakeJob("b", log), FakeJob("a", log, key="other")], results, num_processes=1)
    assert log == ["a"]


def test_a_job_that_raises_is_told_and_run_again(tmp_path):
    results, log = tmp_path / "results.jsonl", []
    jobs = [FakeJob("a", log, error=OSError("disk")), FakeJob("b", log)]
    assert run(jobs, results, num_processes=1) == ["a: OSError: disk"]
    assert run([FakeJob("a", log), FakeJob("b", log)], results, num_processes=1) == []
    assert log == ["a", "b", "a"]


def test_the_committed_results_keep_their_keys():
    """Else the command refuses to continue them."""
    entries = lines(RESULTS / "digits-ablations.jsonl")
    configs = {f"arm/{e['optimizer']} + {e['regularizer']}": e["config"] for e in entries if e["event"] == "arm"}
    found = [(e["key"], e["job"].rsplit("/", 1)[0], e["seed"]) for e in entries if e.get("ablation") == "arm"]
    assert len(found) > 10
    for key, arm, seed in found:
        assert config_key(TrialConfig.model_validate({**configs[arm], "seed": seed})) == key


@pytest.mark.parametrize("change", [{"scope": "uniform"}, {"sparsities": (0.5,)}, {"seed": 1}, {"opt": {"lr": 0.2}}])
def test_what_a_result_depends_on_changes_the_key(change):
    config = TrialConfig(dataset="digits", architecture="small_resnet", max_epochs=1, target_sparsity=0.9)
    assert config_key(config.model_copy(update=change)) != config_key(config)
