"""What keeps Ray from starting on a machine is found before it starts. See also tests/environments/machines.py."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from service.cluster import machine
from service.cluster.machine import check_head, check_machine, last_log_line, own_session, remove_session


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path.parent))
    monkeypatch.setattr(machine, "MOST_SOCKET_BYTES", 1000)  # pytest's folders have long names


def test_an_ordinary_machine_passes():
    check_machine()
    assert threading.stack_size() == 0
    assert not check_head()


@pytest.mark.parametrize("character", list(" '\"$;&(*"))
def test_the_interpreter_must_survive_a_shell(monkeypatch, character):
    monkeypatch.setattr(sys, "executable", f"/tmp/my{character}env/bin/python")
    with pytest.raises(ValueError, match=r"^python: must be at a path without .* got /tmp/my.env/bin/python: "):
        check_machine()


def test_the_temporary_folder_must_be_short(monkeypatch):
    monkeypatch.setattr(machine, "MOST_SOCKET_BYTES", 107)
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", "/tmp/" + "x" * 90)
    with pytest.raises(ValueError, match=r"^TMPDIR: must have at most 4\d bytes .* got 95, /tmp/x+: set RAY_TMPDIR="):
        check_machine()


def test_the_temporary_folder_must_be_a_folder(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"^RAY_TMPDIR: must be a folder that takes 8 MB .* \(File exists\): "):
        check_machine()


def test_threads_must_be_allowed(monkeypatch):
    start, started = threading.Thread.start, []

    def limited(thread):
        if len(started) == 50:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(ValueError, match=r"^process limit: must leave room for 160 .* got room for 50: raise `ulimit"):
        check_machine()
    assert not any(thread.is_alive() for thread in started)


def test_a_cluster_that_answers_is_joined(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", "{}:{}".format(*server.getsockname()))
        assert check_head()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert check_head()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert not check_head()


@pytest.fixture
def closed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return "{}:{}".format(*server.getsockname())


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_gone_is_named_at_once(monkeypatch, closed, scheme):
    monkeypatch.setenv("RAY_ADDRESS", scheme + closed)
    start = time.monotonic()
    with pytest.raises(
        ValueError, match=rf"^ray: the head of the cluster at {scheme}{closed} \(from RAY_ADDRESS\) must"
    ):
        check_head()
    assert time.monotonic() - start < 2 * machine.CONNECT_TIMEOUT


def test_a_cluster_that_left_its_address_on_this_machine_is_named(monkeypatch, closed, tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(closed)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(
        ValueError, match=rf"{closed} \(from {tmp_path}/ray/ray_current_cluster\) .* or remove {tmp_path}"
    ):
        check_head()


def test_a_session_is_removed_and_no_other(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    names = [
        f"session_2026-01-0{day}_00-00-00_000000_{pid}" for day, pid in ((1, os.getpid()), (2, os.getpid()), (3, 1))
    ]
    for name in names:
        (tmp_path / "ray" / name / "logs").mkdir(parents=True)
    latest = tmp_path / "ray" / "session_latest"
    latest.symlink_to(tmp_path / "ray" / names[2])
    session = own_session()
    assert session is not None
    remove_session(session)
    assert {path.name for path in (tmp_path / "ray").iterdir()} == {names[0], names[2], "session_latest"}
    latest.unlink()
    latest.symlink_to(tmp_path / "ray" / names[0])
    remove_session(tmp_path / "ray" / names[0])
    assert {path.name for path in (tmp_path / "ray").iterdir()} == {names[2]}


STAMP = "[2026-11-21 17:00:00,000"


@pytest.mark.parametrize(
    ("log", "last"),
    [
        (f"{STAMP} I 1 1] fine\n\n", f"{STAMP} I 1 1] fine"),
        (f"bash: /tmp/my: No such file\n{STAMP} I 1 1] fine", "bash: /tmp/my: No such file"),
        (f"{STAMP} C 1 1] broken\n/raylet(+0x23ccf4) [0x55cd] main\nbytes errored: 0", f"{STAMP} C 1 1] broken"),
        ("", "(nothing)"),
    ],
)
def test_the_last_line_of_a_log_is_one_that_says_something(tmp_path, log, last):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "raylet.out").write_text(log)
    assert last_log_line(tmp_path) == last


# A lock that is taken twice waits in C for ever, and no signal ends that wait.
BLOCKED = """
import ctypes
from service.cluster import machine
machine.GRACE = 0.5
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
with machine.ends_promptly():
    print("waiting", flush=True)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_start_that_waits_in_c(number):
    code = BLOCKED if number == signal.SIGINT else f"import signal; signal.signal({int(number)}, print)\n{BLOCKED}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True, cwd=os.getcwd())
    try:
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.5)  # for the wait in C, as Python still sees a signal before it
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said == "Stopped. The same command continues from here.\n"


def test_a_signal_that_python_sees_is_left_to_it():
    with machine.ends_promptly(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
