"""Ray for a sweep: its start, what a trial reserves, and what Tune has to be told."""

import atexit
import contextlib
import functools
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.execution import tune_controller
from ray.tune.utils.object_cache import _ObjectCache
from rich.console import Console

from service.cluster.machine import (
    check_head,
    check_machine,
    ends_promptly,
    last_log_line,
    own_session,
    remove_session,
    temporary_folder,
)
from service.cluster.preflight import may_come, wait_for_hosts
from service.spec import Sweep

__all__ = [
    "error_of",
    "is_own_ray",
    "local_or_joined_ray",
    "mended_tune",
    "stopped_without_workers",
    "trial_resources",
    "within_memory",
]

WORKER_TIMEOUT = 120.0  # seconds for the first worker to register: it imports Ray, perhaps from a cold or shared disk
START_TIMEOUT = 240.0  # seconds for Ray to start on this machine with its first workers
POLL = 0.5  # seconds between looks for it
NAMED: set[Path] = set()  # folders of Ray's sessions that a message points to: they are kept


@contextlib.contextmanager
def local_or_joined_ray(console: Console) -> Iterator[None]:
    """The cluster this process runs on (`ray start`, RAY_ADDRESS), or one of its own on this machine."""
    joins = check_head()
    if not joins:
        check_machine()
    try:
        with console.status("Starting Ray ..."), ends_promptly(), gives_up(when=not joins):
            init_with_token(
                include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True
            )
    except Exception as error:  # whatever it is, Ray says it in a dozen lines
        address = os.environ.get("RAY_ADDRESS")
        where = f"the cluster at RAY_ADDRESS={address} must be reached" if address else "must start on this machine"
        said = " ".join(str(error).split())[:300]
        session = None if joins else own_session()
        logged = f"; the last error in {session / 'logs'}: {last_log_line(session)}" if session else ""
        raise ValueError(f"ray: {where}, it did not ({type(error).__name__}: {said}){logged}; try again") from error
    session = running_session() if is_own_ray() else None
    if session is None:
        wait_for_hosts(console)
    try:
        yield
    finally:
        ray.shutdown()
        if session and session not in NAMED:
            remove_session(session)


def init_with_token(**options: Any) -> None:
    """`ray.init`, also where Ray cannot keep the token of its own cluster in ~/.ray, e.g. in a container.

    The token is what keeps other users of this machine from Ray's ports, and with them from running code as this one.
    So it is not done without: it goes into a private folder that is removed when this process ends.
    """
    try:
        ray.init(**options)
    except OSError as error:
        token = Path.home() / ".ray" / "auth_token"
        if not error.filename or not token.is_relative_to(error.filename):
            raise
        folder = Path(tempfile.mkdtemp(prefix="sweep-"))  # for this user alone
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        (folder / "auth_token").write_text(secrets.token_hex(32))
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(folder / "auth_token")
        ray.init(**options)


def is_own_ray() -> bool:
    """Whether this process started the Ray it uses."""
    node = ray._private.worker.global_worker.node
    return node is not None and node.is_head()


def running_session() -> Path:
    node = ray._private.worker.global_worker.node
    assert node is not None
    return Path(node.get_session_dir_path())


def capacity(resource: str) -> float:
    """How much of it there is, or, on the head of a cluster that Ray's launcher started, how much may come."""
    now = ray.cluster_resources().get(resource, 0)
    return now if is_own_ray() else max(now, may_come(resource))


def trial_resources(sweep: Sweep) -> tuple[dict[str, float], int]:
    """What a trial reserves, and how many fit at once. ValueError if not even one does."""
    cpus, gpus = capacity("CPU"), capacity("GPU")
    wanted = sweep.gpus_per_trial if sweep.gpus_per_trial is not None else float(gpus > 0)
    if is_own_ray():  # a cluster may still grow; this machine does not
        if wanted > gpus:
            raise ValueError(f"gpus: must be at most {gpus:g} (what there is here), got {wanted:g}: try --gpus 0")
        if sweep.cpus_per_trial > cpus:
            raise ValueError(f"cpus: must be at most {cpus:g} (what there is here), got {sweep.cpus_per_trial:g}")
    fit = int(cpus // sweep.cpus_per_trial)
    if wanted:
        fit = min(fit, int(gpus) * int(1 / wanted))
    resources = {"cpu": sweep.cpus_per_trial} | ({"gpu": wanted} if wanted else {})
    wished = sweep.max_concurrent or fit
    return resources, max(1, min(fit, wished) if is_own_ray() else wished)  # a cluster grows on demand alone


def within_memory(resources: dict[str, float], num_parallel: int, estimate: int | None) -> tuple[dict[str, float], int]:
    """What a trial reserves and how many run at once, where each takes `estimate` bytes.

    Unchanged where that fits, where the estimate is unknown, on a GPU, and on a cluster, whose hosts to come are not
    known. A trial that is larger than this machine runs alone: the estimate may be wrong.
    """
    total = ray.cluster_resources().get("memory", 0)
    if not estimate or not total or "gpu" in resources or not is_own_ray() or num_parallel * estimate <= total:
        return resources, num_parallel
    reserved = min(float(estimate), total)
    return resources | {"memory": reserved}, max(1, int(total // reserved))


# Ends its parent unless its standard input is closed in time.
WATCH_START = """
import os, select, signal, sys
from pathlib import Path
from service.cluster.machine import last_log_line
parent, timeout, folder = os.getppid(), float(sys.argv[1]), Path(sys.argv[2])
if not select.select([0], [], [], timeout)[0] and os.getppid() == parent:
    session = max(folder.glob(f"session_*_{parent}"), default=None)
    logged = f" The last error in {session / 'logs'}: {last_log_line(session)}" if session else ""
    print(f"ray: must start within {timeout:g} s, it did not.{logged}", file=sys.stderr)
    os.kill(parent, signal.SIGKILL)
"""


@contextlib.contextmanager
def gives_up(*, when: bool) -> Iterator[None]:
    """End the process with one line if Ray does not start on this machine within START_TIMEOUT.

    `ray.init` waits in C++ for the first workers, for ever if none can start. Meanwhile it holds the interpreter's
    lock, so neither a thread nor a signal handler runs. Another process has to watch.
    """
    if not when:
        yield
        return
    command = [sys.executable, "-c", WATCH_START, str(START_TIMEOUT), str(temporary_folder() / "ray")]
    # In a session of its own, so that Ctrl-C does not reach the watcher.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watcher:
        try:
            yield
        finally:
            assert watcher.stdin is not None
            watcher.stdin.close()


@contextlib.contextmanager
def stopped_without_workers(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with the reason and interrupt the main thread if Ray on this machine starts no worker in time.

    On a cluster the autoscaler may take minutes; what fails on its hosts, the preflight has found.
    """
    over, deadline = threading.Event(), time.monotonic() + WORKER_TIMEOUT

    def watch() -> None:
        while not over.wait(POLL):
            with contextlib.suppress(Exception):  # Ray may be about to end
                if ray._private.state.workers():
                    return
            if time.monotonic() > deadline:
                session = running_session()
                NAMED.add(session)
                stop(
                    f"ray: a worker must register within {WORKER_TIMEOUT:g} s, none did. The last error in "
                    f"{session / 'logs'}: {last_log_line(session)}"
                )
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=watch, name="any worker?", daemon=True)
    if is_own_ray():
        watcher.start()
    try:
        yield
    finally:
        over.set()
        if watcher.is_alive():
            watcher.join()


def error_of(trial: Any) -> str:
    """What Tune noted of a trial's last failure: text, so that nothing has to be unpickled."""
    try:
        _, _, last = Path(trial.error_file).read_text().rpartition("Failure # ")
    except (OSError, TypeError):
        last = ""
    last = last.partition("Some common causes include")[0]  # guesses of Ray's
    return last.partition("\n")[2].strip() or "its worker died"


@contextlib.contextmanager
def mended_tune(num_to_come: Callable[[], int]) -> Iterator[None]:
    """Tune as a sweep needs it, in two private places of Ray 2.60.

    A worker that Ray killed, as its host ran out of memory, is a worker that died: Ray says it with an error that Tune
    does not know, and gives the whole sweep up. And an actor that waits is kept as long as trials are to come: see
    `WarmActors`.
    """
    failed, cache = RayActorManager._actor_task_failed, tune_controller._ObjectCache

    @functools.wraps(failed)
    def also_for_memory(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            said = " ".join(str(exception).partition(", which exceeds")[0].split())[:300]
            exception = ray.exceptions.RayActorError(error_msg=said)
        failed(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = also_for_memory  # type: ignore[method-assign]
    tune_controller._ObjectCache = functools.partial(WarmActors, num_to_come)  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = failed  # type: ignore[method-assign]
        tune_controller._ObjectCache = cache  # type: ignore[misc]


class WarmActors(_ObjectCache):
    """Tune's actors between two trials. Tune keeps one of those that nothing is ready for at the moment and ends the
    others, so that trials which end together, or wait for the last of the search, would pay for imports once more."""

    def __init__(self, num_to_come: Callable[[], int], may_keep_one: bool = True):
        super().__init__(may_keep_one)
        self._num_to_come = num_to_come

    def cache_object(self, key: Any, obj: Any) -> bool:
        if self._num_cached_objects >= self._num_wanted():
            return False
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        return True

    def flush_cached_objects(self, force_all: bool = False) -> Generator[Any, None, None]:
        num_kept = 0 if force_all else self._num_wanted()
        for actors in self._cached_objects.values():
            while actors and self._num_cached_objects > num_kept:
                self._num_cached_objects -= 1
                yield actors.pop(0)

    def _num_wanted(self) -> int:
        return self.total_max_objects + self._num_to_come()  # of trials that Tune knows of, and of those it does not
