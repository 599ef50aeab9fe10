"""Ray's Tune as it is, and as a sweep has it mended."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune.execution import tune_controller
from ray.tune.search import Searcher
from ray.tune.utils.object_cache import _ObjectCache

from service.cluster import start
from service.cluster.start import WarmActors, init_with_token, mended_tune, stopped_without_workers


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
        with mended_tune(lambda: searcher.num_left):
            used = pids(searcher, tmp_path)
    finally:
        ray.shutdown()
    assert len(used) == 10
    assert len(set(used)) == 2  # without the mend it is up to six
    assert tune_controller._ObjectCache is _ObjectCache  # and what was mended is as it was


def test_no_more_workers_are_kept_than_trials_are_to_come():
    num_to_come = 3
    cache = WarmActors(lambda: num_to_come)
    assert [cache.cache_object("cpu", actor) for actor in "abcd"] == [True, True, True, False]
    assert list(cache.flush_cached_objects()) == []
    num_to_come = 2
    assert list(cache.flush_cached_objects()) == ["a"]
    num_to_come = 0
    cache.increase_max("cpu")  # a trial that waits for an actor
    assert list(cache.flush_cached_objects()) == ["b"]
    assert cache.pop_cached_object("cpu") == "c"
    assert [cache.cache_object("cpu", actor) for actor in "ef"] == [True, False]
    assert list(cache.flush_cached_objects(force_all=True)) == ["e"]


# ---- the token of a local Ray ------------------------------------------------------------------------------------


def started_with(monkeypatch, fault):
    """Ray's start, which fails with `fault` at first. The environment of each try."""
    tries = []

    def init(**options):
        tries.append(dict(os.environ))
        if len(tries) == 1:
            raise fault

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")  # so that it is undone
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    init_with_token(num_cpus=1)
    return tries


@pytest.mark.parametrize("refused", ["", ".ray", ".ray/auth_token"])
def test_a_home_that_cannot_be_written_gets_ray_a_token_in_a_private_place(tmp_path, monkeypatch, refused):
    monkeypatch.setenv("HOME", str(tmp_path))
    tries = started_with(monkeypatch, PermissionError(errno.EACCES, "Permission denied", str(tmp_path / refused)))
    token = Path(tries[1]["RAY_AUTH_TOKEN_PATH"])
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert token.parent.parent == Path(tempfile.gettempdir())
    assert tries[1].get("RAY_AUTH_MODE") == tries[0].get("RAY_AUTH_MODE")  # authentication is as it was


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left", "/tmp/ray"), ConnectionError("no answer")])
def test_another_fault_of_rays_start_is_not_tried_again(monkeypatch, fault):
    with pytest.raises(type(fault)) as raised:
        started_with(monkeypatch, fault)
    assert raised.value is fault


@pytest.fixture
def own_ray(monkeypatch, tmp_path):
    """As if this process had started Ray; the list of its workers."""
    workers = {}
    monkeypatch.setattr(start, "is_own_ray", lambda: True)
    monkeypatch.setattr(start, "running_session", lambda: tmp_path)
    monkeypatch.setattr(start, "POLL", 0.01)
    monkeypatch.setattr(start, "WORKER_TIMEOUT", 0.3)
    monkeypatch.setattr(ray._private.state, "workers", lambda: workers)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run of Tune leaves its own handler
    yield workers
    signal.signal(signal.SIGINT, before)


def test_a_sweep_without_workers_ends_with_the_last_error_of_rays_log(own_ray, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "raylet.err").write_text("bash: /tmp/my: No such file or directory\n")
    reasons = []
    with pytest.raises(KeyboardInterrupt), stopped_without_workers(reasons.append):
        time.sleep(30)
    (reason,) = reasons
    assert reason.startswith("ray: a worker must register within 0.3 s, none did. The last error in ")
    assert reason.endswith("bash: /tmp/my: No such file or directory")
    assert tmp_path in start.NAMED


def test_a_start_that_waits_for_workers_ends_with_the_last_error_of_rays_log(tmp_path):
    code = (
        "import ctypes, os, pathlib; from service.cluster import start\n"
        "logs = pathlib.Path(os.environ['TMPDIR'], 'ray', f'session_2026_{os.getpid()}', 'logs')\n"
        "logs.mkdir(parents=True); (logs / 'raylet.err').write_text('bash: /tmp/my: No such file or directory')\n"
        "start.START_TIMEOUT = 0.5\n"
        "with start.gives_up(when=True): ctypes.PyDLL(None).pause()  # PyDLL keeps the lock"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.startswith("ray: must start within 0.5 s, it did not. The last error in ")
    assert done.stderr.endswith("bash: /tmp/my: No such file or directory\n")


def test_a_start_in_time_is_not_ended(monkeypatch):
    monkeypatch.setattr(start, "START_TIMEOUT", 0.5)
    begin = time.monotonic()
    with start.gives_up(when=True):
        pass
    assert time.monotonic() - begin < 20  # does not wait for the timeout of the watcher either
    time.sleep(1)


def test_a_sweep_with_workers_goes_on(own_ray):
    own_ray["a worker"] = {}
    with stopped_without_workers(lambda reason: pytest.fail(reason)):
        time.sleep(0.6)


def memory_of(monkeypatch, *, total, num_parallel, estimate):
    monkeypatch.setattr(start, "is_own_ray", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "memory": float(total)})
    return start.within_memory({"cpu": 1}, num_parallel, estimate)


def test_fewer_trials_run_where_memory_would_not_do(monkeypatch):
    assert memory_of(monkeypatch, total=16e9, num_parallel=4, estimate=None) == ({"cpu": 1}, 4)
    assert memory_of(monkeypatch, total=16e9, num_parallel=4, estimate=int(1e9)) == ({"cpu": 1}, 4)
    assert memory_of(monkeypatch, total=16e9, num_parallel=4, estimate=int(7e9)) == ({"cpu": 1, "memory": 7e9}, 2)
    assert memory_of(monkeypatch, total=16e9, num_parallel=4, estimate=int(15e9)) == ({"cpu": 1, "memory": 15e9}, 1)
    assert memory_of(monkeypatch, total=16e9, num_parallel=4, estimate=int(30e9)) == ({"cpu": 1, "memory": 16e9}, 1)
