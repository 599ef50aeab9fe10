"""Checks of what Ray needs from this machine, before it starts. Each error is one line that names the remedy."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

__all__ = [
    "check_head",
    "check_machine",
    "ends_promptly",
    "last_log_line",
    "own_session",
    "remove_session",
    "temporary_folder",
]

CONNECT_TIMEOUT = 5.0  # seconds for the head of a cluster to accept a connection
NUM_THREADS = 160  # Ray 2.60 with one worker starts about 170; if it cannot, it waits for minutes
NUM_BYTES = 8 << 20  # for Ray's logs and Tune's state
GRACE = 3.0  # seconds for Python to see a signal while Ray starts
MOST_SOCKET_BYTES = 107  # longest path of a Unix socket on Linux


def check_machine() -> None:
    """Raise ValueError if Ray cannot start on this machine. Ray itself reports this after minutes, or never."""
    _check_interpreter()
    _check_temporary_folder()
    _check_loopback()
    _check_threads()


def check_head() -> bool:
    """Whether Ray will join a cluster. ValueError if its head does not answer; Ray would try for up to 14 minutes."""
    address, origin = os.environ.get("RAY_ADDRESS", ""), "RAY_ADDRESS"
    if not address:
        origin = str(temporary_folder() / "ray" / "ray_current_cluster")  # `ray start` on this machine writes it
        with contextlib.suppress(OSError):
            address = Path(origin).read_text().strip()
    if address in ("", "local"):
        return False
    host = port = None
    with contextlib.suppress(ValueError):  # Ray reports a malformed address
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    if host and port:
        try:
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
        except OSError as error:
            other = "unset RAY_ADDRESS" if origin == "RAY_ADDRESS" else f"remove {origin}"
            raise ValueError(
                f"ray: the head of the cluster at {address} (from {origin}) must accept connections, it does not "
                f"({error}): start it, or {other} to use this machine alone"
            ) from None
    return True


def temporary_folder() -> Path:
    """The folder in which Ray creates its session folders."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def own_session() -> Path | None:
    """The session folder of the last Ray instance that this process started."""
    return max((temporary_folder() / "ray").glob(f"session_*_{os.getpid()}"), default=None)


def remove_session(session: Path) -> None:
    """Remove the session folder of a Ray instance that has ended; its last processes may still write to it briefly."""
    latest = session.parent / "session_latest"
    with contextlib.suppress(OSError):
        if Path(os.readlink(latest)).name == session.name:
            latest.unlink()
    for _ in range(10):
        shutil.rmtree(session, ignore_errors=True)
        if not session.exists():
            return
        time.sleep(0.1)


@contextlib.contextmanager
def ends_promptly() -> Iterator[None]:
    """End the process soon after Ctrl-C or SIGTERM while Ray's C++ code keeps Python's signal handlers from running.

    This needs a thread, so it has no effect where that code also holds the interpreter's lock. Ray's own processes
    end with it. An interactive session waits instead, because ending it would lose the user's work.
    """
    if threading.current_thread() is not threading.main_thread() or hasattr(sys, "ps1"):
        yield
        return
    over = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while received := os.read(reader, 1):
            if received[0] in (signal.SIGINT, signal.SIGTERM) and not over.wait(GRACE):
                if sys.stdout.isatty():
                    os.write(1, b"\x1b[?25h")  # show the cursor, which the status line hides
                os.write(2, b"Stopped. The same command continues from here.\n")
                os._exit(130)

    watcher = threading.Thread(target=watch, name="stopped during the start?", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.close(writer)
        watcher.join()
        os.close(reader)


def last_log_line(session: Path) -> str:
    """The last informative line in the log of Ray's raylet, which starts the workers: an error if it has one."""
    lines = []
    for name in ("raylet.out", "raylet.err"):
        with contextlib.suppress(OSError):
            lines += (session / "logs" / name).read_text(errors="replace").splitlines()
    shown = [line.strip() for line in lines if line.strip() and "(+0x" not in line]  # stack frames do not help a user
    errors = [line for line in shown if re.search(r"^\[20.* [EFC] \d+ |^[^\[].*(rror:|No such|not found|denied)", line)]
    return " ".join((errors or shown or ["(nothing)"])[-1].split())[:400]


def _check_interpreter() -> None:
    package = importlib.util.find_spec("ray")
    for path in (sys.executable, str(package.origin if package else "")):
        if bad := re.search(r"[\s'\"`\\$&;|<>()*?]", path):
            raise ValueError(
                f"python: must be at a path without {bad[0]!r} (Ray starts its workers through a shell), got {path}: "
                "make the environment in another folder"
            )


def _check_temporary_folder() -> None:
    folder = temporary_folder()
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    session = f"ray/session_{datetime.now():%Y-%m-%d_%H-%M-%S_%f}_{os.getpid()}/sockets/plasma_store"
    most = MOST_SOCKET_BYTES - len(session) - 1
    if (length := len(os.fsencode(folder))) > most:
        raise ValueError(
            f"{name}: must have at most {most} bytes (the path of a socket below it may have {MOST_SOCKET_BYTES}), got "
            f"{length}, {folder}: set RAY_TMPDIR=/tmp"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, NUM_BYTES)
    except OSError as error:
        raise ValueError(
            f"{name}: must be a folder that takes {NUM_BYTES >> 20} MB (for Ray's logs and sockets), got {folder} "
            f"({error.strerror}): free some space, or set {name} to another folder"
        ) from None


def _check_loopback() -> None:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        raise ValueError(
            f"network: 127.0.0.1 must be reachable (Ray's processes talk through it), got {error}: "
            "bring the loopback interface up (ip link set lo up)"
        ) from None


def _check_threads() -> None:
    """Start the threads that Ray needs at least: limits count processes and threads in ways that cannot be compared."""
    end, threads = threading.Event(), []
    before = threading.stack_size(256 << 10)
    try:
        for _ in range(NUM_THREADS):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        raise ValueError(
            f"process limit: must leave room for {NUM_THREADS} more processes and threads (Ray's own), got room for "
            f"{len(threads)}: raise `ulimit -u`, or the container's limit of processes"
        ) from None
    finally:
        threading.stack_size(before)
        end.set()
        for thread in threads:
            thread.join()
