"""Trials in Ray actors: a reused actor computes what a fresh one does, and reports what Tune needs."""

import os

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# On a busy machine Ray's processes need longer to start than Ray waits for them (30 s).
os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")

import pytest
import ray
from ray import tune

from trainables.result import Status, read_result
from trainables.runner import TrialRunner
from trainables.trial import Trial


@pytest.fixture(scope="module")
def local_ray():
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def start(config, data, folder):
    """An actor as Tune creates it, with the options that `service.driver` passes."""
    folder.mkdir()
    options = {"keep": "none", "sizes": False, "train": True}
    shared = tune.with_parameters(Trial, data=data, folder=str(folder), **options)
    return ray.remote(shared).options(num_cpus=1).remote(config=config)


def run(actor):
    """Reports until the trial is done, without what Tune adds to them."""
    reports = []
    while not reports or not reports[-1]["done"]:
        reports.append(ray.get(actor.step.remote()))
    return reports


def process_of(actor):
    return ray.get(actor.__ray_call__.remote(lambda trial: os.getpid()))


def without_seconds(report):
    return {name: value for name, value in report.items() if name != "seconds"}


def test_reused_actor_computes_what_a_fresh_one_does(local_ray, tiny, digits_data, make_task, tmp_path):
    first = tiny(optimizer="sam", regularizer="wcr", lam=1e-6, lr_schedule="one_cycle", seed=1)
    second = tiny(optimizer="s2sam", regularizer="hoyer_square", lam=1e-4, model={"width": 6})
    broken = {**tiny().model_dump(mode="json"), "opt": {"lr": 0.1, "rho": 1}}
    folder = tmp_path / "reused"
    actor = start(first.model_dump(mode="json"), digits_data, folder)
    process = process_of(actor)
    one = run(actor)
    assert ray.get(actor.reset_config.remote(broken))
    failed = run(actor)
    assert ray.get(actor.reset_config.remote(second.model_dump(mode="json")))
    two = run(actor)
    assert ray.get(actor.reset_config.remote(first.model_dump(mode="json")))
    again = run(actor)
    assert process_of(actor) == process != os.getpid()
    ray.kill(actor)

    (error,) = failed
    assert error["reason"].startswith("ValueError: SGD: arguments must be among ")
    assert error == {"key": error["key"], "status": "error", "reason": error["reason"], "epoch": 0, "done": True}
    assert sorted(path.name for path in folder.iterdir()) == sorted([first.key, second.key, error["key"]])
    assert again == [one[-1]]  # it had ended
    for config, reports in ((first, one), (second, two)):
        *running, last = reports
        assert last == {"key": config.key, "status": "finished", "reason": "", "epoch": 3, "done": True}
        fresh = TrialRunner(config, tmp_path / "fresh" / config.key, lambda config=config: make_task(config))
        for report in running:
            expected = without_seconds(fresh.advance())
            sent = {**without_seconds(report["evaluation"]), "status": report["status"], "reason": report["reason"]}
            assert sent == expected
            assert (report["key"], report["epoch"], report["done"]) == (config.key, expected["epoch"], False)
        assert "macs" not in read_result(folder / config.key)["pruned"][0]["curve"][0]
        ended = fresh.advance()
        assert without_seconds(read_result(folder / config.key)["report"]) == without_seconds(ended)


def test_storage_failure_ends_the_trial_with_a_report(local_ray, tiny, digits_data, tmp_path):
    config = tiny()
    actor = start(config.model_dump(mode="json"), digits_data, tmp_path / "trials")
    (tmp_path / "trials" / config.key).write_text("a file in place of the trial's folder")
    (report,) = run(actor)
    ray.kill(actor)
    reason = report.pop("reason")
    assert report == {"key": config.key, "status": Status.STORAGE_FAILED, "epoch": 0, "done": True}
    assert reason.startswith("the trial's files cannot be read or written: ")
