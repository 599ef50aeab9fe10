"""Which process runs a sweep, and the request that it stops.

Both are files in the sweep's folder, so they work from every host that sees the folder.

The lock is `fcntl.flock`: the kernel releases it when the process ends, however it ends, and NFS forwards it. The
library `filelock` uses the same call, but it cannot test a lock without taking it, does not record who holds it, and
falls back to a lock that outlives its process on file systems without flock.
"""

import contextlib
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["SweepLock", "exclusive", "lock_holder", "request_stop", "stop_requested"]

PATIENCE = 2.0  # seconds: `lock_holder` takes a shared lock for a moment
LOCK, STOP = "lock", "stop"  # names of files in the sweep's folder


class SweepLock:
    """The exclusive right of this process to run the sweep in a folder, until `release` or the end of the process.

    Raises:
        ValueError: If another process has it; the message names that process.
    """

    def __init__(self, folder: Path):
        self._file = (folder / LOCK).open("a+")
        deadline = time.monotonic() + PATIENCE
        while not try_to_lock(self._file.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                self._file.seek(0)
                holder = self._file.read().strip() or "another process"
                self._file.close()
                raise ValueError(f"{folder}: must be used by one process at a time, is in use by {holder}")
            time.sleep(0.1)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {platform.node()}")
        self._file.flush()
        (folder / STOP).unlink(missing_ok=True)  # a request to a process that has ended since

    def release(self) -> None:
        self._file.close()


def try_to_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # NFS may answer either while another process holds the lock
        return False
    return True


def lock_holder(folder: Path) -> str:
    """Name the process that runs the sweep in a folder, e.g. "process 42 on host"; empty if none does."""
    try:
        with (folder / LOCK).open() as file:
            if try_to_lock(file.fileno(), fcntl.LOCK_SH):
                return ""
            return file.read().strip() or "another process"
    except FileNotFoundError:
        return ""


def request_stop(folder: Path) -> None:
    """Ask the process that runs the sweep in a folder to stop."""
    (folder / STOP).touch()


def stop_requested(folder: Path) -> bool:
    """Whether the process that runs the sweep in a folder was asked to stop."""
    return (folder / STOP).exists()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock file at `path`, and hold it inside the `with` block."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
