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

from service.cluster import ray_start
from service.cluster.ray_start import Cluster, Resources, init_with_token

# isort: split
import ray

from tests.service._sweeps import make


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


def test_a_start_that_waits_for_workers_ends_with_the_last_error_of_rays_log(tmp_path):
    code = (
        "import ctypes, os, pathlib; from service.cluster import ray_start\n"
        "logs = pathlib.Path(os.environ['TMPDIR'], 'ray', f'session_2026_{os.getpid()}', 'logs')\n"
        "logs.mkdir(parents=True); (logs / 'raylet.err').write_text('bash: /tmp/my: No such file or directory')\n"
        "ray_start.START_TIMEOUT = 0.5\n"
        "with ray_start.gives_up(when=True): ctypes.PyDLL(None).pause()  # PyDLL keeps the lock"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert done.stderr.startswith("ray: must start within 0.5 s, it did not. The last error in ")
    assert done.stderr.endswith("bash: /tmp/my: No such file or directory\n")


def test_a_start_in_time_is_not_ended(monkeypatch):
    monkeypatch.setattr(ray_start, "START_TIMEOUT", 0.5)
    begin = time.monotonic()
    with ray_start.gives_up(when=True):
        pass
    assert time.monotonic() - begin < 20  # does not wait for the timeout of the watcher either
    time.sleep(1)


def resources(monkeypatch, *, total, num_parallel, memory, **fields):
    """What the trials of a sweep reserve on this machine with four CPUs."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "memory": float(total)})
    sweep = make().changed(max_concurrent=num_parallel, **fields)
    return Cluster(is_own=True).resources(sweep, memory)


@pytest.mark.parametrize(
    ("memory", "reserved", "num_parallel"),
    [
        (None, {"cpu": 1}, 4),
        (1e9, {"cpu": 1}, 4),
        (7e9, {"cpu": 1, "memory": 7e9}, 2),
        (15e9, {"cpu": 1, "memory": 15e9}, 1),
        (30e9, {"cpu": 1, "memory": 16e9}, 1),
    ],
)
def test_fewer_trials_run_where_memory_is_scarce(monkeypatch, memory, reserved, num_parallel):
    found = resources(monkeypatch, total=16e9, num_parallel=4, memory=memory and int(memory))
    assert found == Resources(reserved, num_fitting=4, num_parallel=num_parallel)


def test_memory_is_not_reserved_on_a_cluster_which_may_grow(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "memory": 16e9})
    monkeypatch.setattr(ray_start, "may_come", lambda resource: {"CPU": 64.0}.get(resource, 0.0))
    sweep = make().changed(max_concurrent=32)
    found = Cluster(is_own=False).resources(sweep, int(7e9))
    assert found == Resources({"cpu": 1}, num_fitting=32, num_parallel=32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpus_per_trial": 1.0}, "gpus: must be at most 0 .*, got 1: try --gpus 0"),
        ({"cpus_per_trial": 5.0}, "cpus: must be at most 4 .*, got 5"),
    ],
)
def test_a_trial_that_never_fits_is_refused(monkeypatch, fields, message):
    with pytest.raises(ValueError, match=message):
        resources(monkeypatch, total=16e9, num_parallel=None, memory=None, **fields)
