"""The corrections of Ray Tune, on the Tune that is installed."""

import os
import time
import warnings
from pathlib import Path

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.execution import tune_controller
from ray.tune.search import Searcher
from ray.tune.utils.object_cache import _ObjectCache

from service.cluster.tune_patches import find_internals, patched_tune, warm_cache


class Pairs(Searcher):
    """Proposes two trials, then two more once both have ended, as a sweep does between its search and confirmation."""

    def __init__(self, num_pairs, folder):
        super().__init__(metric="pid", mode="max")
        self.num_left, self.running, self.folder = 2 * num_pairs, set(), folder

    def suggest(self, trial_id):
        if self.num_left == 0:
            return Searcher.FINISHED
        if self.num_left % 2 == 0 and self.running:
            return None
        self.num_left -= 1
        self.running.add(trial_id)
        return {"own": f"{self.folder}/{self.num_left}", "other": f"{self.folder}/{self.num_left ^ 1}"}

    def on_trial_complete(self, trial_id, result=None, error=False):
        self.running.discard(trial_id)

    def save(self, checkpoint_path):
        pass

    def restore(self, checkpoint_path):
        pass


class Pid(tune.Trainable):
    """Ends when the other one of its pair does."""

    def step(self):
        Path(self.config["own"]).touch()
        while not Path(self.config["other"]).exists():
            time.sleep(0.01)
        return {"pid": os.getpid(), "done": True}

    def reset_config(self, new_config):
        self.config = new_config
        return True


def pids(searcher, storage):
    """Of the processes that ran its trials."""
    results = tune.Tuner(
        tune.with_resources(Pid, {"cpu": 1}),
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, max_concurrent_trials=2, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(storage), verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
        ),
    ).fit()
    return [result.metrics["pid"] for result in results]


def test_workers_that_wait_for_the_next_trials_are_kept(tmp_path):
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        searcher = Pairs(5, tmp_path)
        with patched_tune(lambda: searcher.num_left, find_internals()):
            used = pids(searcher, tmp_path)
    finally:
        ray.shutdown()
    assert len(used) == 10
    assert len(set(used)) == 2  # without the correction it is up to six
    assert tune_controller._ObjectCache is _ObjectCache  # the correction is undone


def test_no_more_workers_are_kept_than_trials_are_to_come():
    num_left = 3
    cache = warm_cache(_ObjectCache, lambda: num_left)(True)
    assert [cache.cache_object("cpu", actor) for actor in "abcd"] == [True, True, True, False]
    assert list(cache.flush_cached_objects()) == []
    num_left = 2
    assert list(cache.flush_cached_objects()) == ["a"]
    num_left = 0
    cache.increase_max("cpu")  # a trial that waits for an actor
    assert list(cache.flush_cached_objects()) == ["b"]
    assert cache.pop_cached_object("cpu") == "c"
    assert [cache.cache_object("cpu", actor) for actor in "ef"] == [True, False]
    assert list(cache.flush_cached_objects(force_all=True)) == ["e"]


def test_a_worker_killed_for_lack_of_memory_is_reported_as_a_dead_one(monkeypatch):
    reported = []
    monkeypatch.setattr(RayActorManager, "_actor_task_failed", lambda self, task, error: reported.append(error))
    with patched_tune(lambda: 0, find_internals()):
        RayActorManager._actor_task_failed(None, None, ray.exceptions.OutOfMemoryError("no room, which exceeds it"))
        RayActorManager._actor_task_failed(None, None, ValueError("another fault"))
    assert isinstance(reported[0], ray.exceptions.RayActorError)
    assert "no room" in str(reported[0])
    assert isinstance(reported[1], ValueError)


@pytest.mark.parametrize("version", ["2.61.0", "3.0.0", "2.6.0"])
def test_an_unknown_release_of_ray_runs_uncorrected(version):
    before = RayActorManager._actor_task_failed, tune_controller._ObjectCache
    with pytest.warns(UserWarning, match=f"^Ray {version}: Tune runs uncorrected .known releases are 2.60"):
        internals = find_internals(version)
    with patched_tune(lambda: 3, internals):
        assert (RayActorManager._actor_task_failed, tune_controller._ObjectCache) == before


def test_a_known_release_without_the_private_places_runs_uncorrected(monkeypatch):
    monkeypatch.delattr(tune_controller, "_ObjectCache")
    with pytest.warns(UserWarning, match="Tune runs uncorrected .*_ObjectCache"):
        assert find_internals() is None


def test_the_installed_release_is_known():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_internals() is not None
