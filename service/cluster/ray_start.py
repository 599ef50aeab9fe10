"""Starting Ray on this machine, or joining the cluster that this process runs on."""

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray reads these when it is imported. The records replace Tune's loggers; nobody's use is reported anywhere.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# On a busy machine Ray's processes need longer to start than the 30 s that Ray waits for them.
os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")

import ray
from rich.console import Console

from service.cluster.hosts import may_come, wait_for_hosts
from service.cluster.machine import (
    check_head,
    check_machine,
    ends_promptly,
    last_log_line,
    own_session,
    remove_session,
    temporary_folder,
)
from service.spec import SweepSpec

__all__ = ["Cluster", "Resources", "connect"]

START_TIMEOUT = 240.0  # seconds for Ray to start on this machine with its first workers


@dataclass(frozen=True)
class Resources:
    """What a trial reserves, and how many trials run at once.

    Args:
        reserved: "cpu", "gpu" and, where memory is scarce, "memory" in bytes.
        num_fitting: How many trials fit by CPUs and GPUs alone.
        num_parallel: How many run at once.
    """

    reserved: dict[str, float]
    num_fitting: int
    num_parallel: int


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process uses.

    Args:
        is_own: Whether this process started it, on this machine alone. Such a cluster does not grow.
    """

    is_own: bool

    def capacity(self, resource: str) -> float:
        """How much there is of a resource; on a cluster that can grow, how much there may be."""
        now = ray.cluster_resources().get(resource, 0)
        return now if self.is_own else max(now, may_come(resource))

    def resources(self, spec: SweepSpec, memory: int | None) -> Resources:
        """What the trials of a sweep reserve.

        Args:
            memory: Estimated bytes of a trial on a CPU, None if unknown. Ignored on a cluster, because the memory of
                hosts that join later is unknown.

        Raises:
            ValueError: If not even one trial fits.
        """
        cpus, gpus = self.capacity("CPU"), self.capacity("GPU")
        gpus_per_trial = spec.gpus_per_trial if spec.gpus_per_trial is not None else float(gpus > 0)
        if self.is_own:  # a cluster may still grow
            if gpus_per_trial > gpus:
                raise ValueError(
                    f"gpus: must be at most {gpus:g} (this machine's number), got {gpus_per_trial:g}: try --gpus 0"
                )
            if spec.cpus_per_trial > cpus:
                raise ValueError(f"cpus: must be at most {cpus:g} (this machine's), got {spec.cpus_per_trial:g}")
        num_fitting = int(cpus // spec.cpus_per_trial)
        reserved = {"cpu": spec.cpus_per_trial}
        if gpus_per_trial:
            num_fitting = min(num_fitting, int(gpus) * int(1 / gpus_per_trial))
            reserved["gpu"] = gpus_per_trial
        wanted = spec.max_concurrent or num_fitting
        # A cluster grows on demand, so it is asked for as many as are wanted.
        num_parallel = max(1, min(num_fitting, wanted) if self.is_own else wanted)
        total = ray.cluster_resources().get("memory", 0)
        if memory and total and self.is_own and "gpu" not in reserved and num_parallel * memory > total:
            # A trial that is larger than this machine runs alone: the estimate may be wrong.
            reserved["memory"] = min(float(memory), total)
            return Resources(reserved, num_parallel, max(1, int(total // reserved["memory"])))
        return Resources(reserved, num_parallel, num_parallel)


@contextlib.contextmanager
def connect(console: Console) -> Iterator[Cluster]:
    """Join the cluster that this process runs on (`ray start`, RAY_ADDRESS), or start Ray on this machine.

    Raises:
        ValueError: If Ray cannot be reached or does not start, one line with the last error of its logs.
    """
    joins = check_head()
    if not joins:
        check_machine()
    try:
        with console.status("Starting Ray ..."), ends_promptly(), gives_up(when=not joins):
            init_with_token(
                include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True
            )
    except Exception as error:  # whatever it is, Ray's message has a dozen lines
        address = os.environ.get("RAY_ADDRESS")
        where = f"the cluster at RAY_ADDRESS={address} must be reached" if address else "must start on this machine"
        message = " ".join(str(error).split())[:300]
        session = None if joins else own_session()
        logged = f"; the last error in {session / 'logs'}: {last_log_line(session)}" if session else ""
        raise ValueError(f"ray: {where}, it did not ({type(error).__name__}: {message}){logged}; try again") from error
    session = None if joins else own_session()
    if joins:
        wait_for_hosts(console)
    try:
        yield Cluster(is_own=not joins)
    finally:
        ray.shutdown()
        if session:
            remove_session(session)


def init_with_token(**options: Any) -> None:
    """`ray.init`, also where Ray cannot keep its token in ~/.ray, for example in a container.

    The token keeps other users of this machine from Ray's ports, through which they could run code as this user. If
    ~/.ray cannot be written, the token goes into a private folder that is removed when this process ends.
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
