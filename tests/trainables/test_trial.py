"""The one test here that starts Ray: a reused actor computes what a fresh one does."""

import os

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune

from trainables.runner import ResumableTrial
from trainables.trial import Trial


def run(actor):
    """Reports until the trial is done."""
    reports = []
    while not reports or not reports[-1]["done"]:
        reports.append(ray.get(actor.step.remote()))
    return reports


def plain(report):
    return {name: value for name, value in report.items() if name not in ("seconds", "pid", "key", "done")}


def test_a_reused_actor_computes_what_a_fresh_one_does(tiny, digits_data, make_task, tmp_path):
    first = tiny(optimizer="sam", regularizer="wcr", lam=1e-6, lr_schedule="one_cycle", seed=1)
    second = tiny(optimizer="s2sam", regularizer="hoyer_square", lam=1e-4, model={"width": 6})
    broken = {**tiny().model_dump(mode="json"), "opt": {"lr": 0.1, "rho": 1}}
    (tmp_path / "reused").mkdir()
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        shared = tune.with_parameters(Trial, data=digits_data, folder=str(tmp_path / "reused"), keep="none")
        actor = ray.remote(shared).options(num_cpus=1).remote(config=first.model_dump(mode="json"))
        one = run(actor)
        assert ray.get(actor.reset_config.remote(broken))
        failed = run(actor)
        assert ray.get(actor.reset_config.remote(second.model_dump(mode="json")))
        other = run(actor)
        again = ray.get(actor.reset_config.remote(first.model_dump(mode="json"))) and run(actor)
    finally:
        ray.shutdown()
    assert {report["pid"] for report in one + other + failed} == {one[0]["pid"]} != {os.getpid()}
    assert [report["epoch"] for report in one] == [report["epoch"] for report in other] == [1, 2, 3]
    assert [report["key"] for report in other] == [second.key] * 3
    assert [report["status"] for report in failed] == ["error"]
    assert plain(again[0]) == plain(one[-1])  # it was done
    assert sorted(path.name for path in (tmp_path / "reused").iterdir()) == sorted(
        [first.key, second.key, failed[0]["key"]]
    )
    for config, reports in ((first, one), (second, other)):
        trial = ResumableTrial(config, tmp_path / "fresh" / config.key, lambda config=config: make_task(config))
        assert [plain(trial.advance()) for _ in range(3)] == [plain(report) for report in reports]
