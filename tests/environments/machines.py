"""Machines on which Ray cannot start, and what a sweep leaves on one where it can."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tests._digits import REPOSITORY, environment


@pytest.fixture
def refused(sweep):
    """A function like `sweep` that returns the one line which an environment is refused with, before Ray starts."""

    def run(**options):
        done = sweep(**options)
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        return line

    return run


def test_an_interpreter_with_a_space_in_its_path(refused, runs, environment_row):
    link = runs.parent / "my env"
    link.symlink_to(sys.prefix)
    line = refused(under=["sh", "-c", 'shift && exec "$0" "$@"', str(link / "bin" / "python")])
    assert line.startswith("python: must be at a path without ' '")
    environment_row("Python in a folder with a space", "refused at once")


def test_no_worker_starts(runs, environment_row):
    broken = runs.parent / "python"
    broken.write_text(
        '#!/bin/sh\ncase "$*" in *default_worker.py*) echo "python: worker broken: No such file" >&2; exit 127;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    broken.chmod(0o755)
    code = (
        "import sys, runpy; from service.cluster import ray_start; ray_start.START_TIMEOUT = 40; "
        f"sys.executable = {str(broken)!r}; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(REPOSITORY / "sweeps" / "digits.py"), "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=REPOSITORY)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("ray: must start within 40 s, it did not. The last error in ")
    assert done.stderr.endswith("python: worker broken: No such file\n")
    environment_row("Ray starts no worker, whatever the cause", "ends after 4 minutes with the last error of Ray's log")


def test_loopback_down(refused, environment_row):
    if os.geteuid() != 0:
        pytest.skip("it must run as root (it makes a network namespace)")
    line = refused(under=["unshare", "--net"])
    assert line.startswith("network: 127.0.0.1 must be reachable ")
    environment_row("`lo` is down", "refused at once")


def test_a_limit_of_processes(refused, as_user, environment_row):
    line = refused(under=[*as_user(54321), "prlimit", "--nproc=120"], env=environment(HOME="/tmp"))
    assert line.startswith("process limit: must leave room for 160 more processes and threads ")
    environment_row("`ulimit -u 120`", "refused at once")


def test_a_full_temporary_folder(refused, tmpfs, environment_row):
    folder = tmpfs("1m")
    (folder / "full").write_bytes(bytes(900_000))
    line = refused(env=environment(TMPDIR=str(folder)))
    assert line.startswith("TMPDIR: must be a folder that takes 8 MB ")
    assert "(No space left on device)" in line
    environment_row("TMPDIR is full", "refused at once")


def test_a_long_temporary_folder(refused, runs, environment_row):
    folder = runs.parent / ("x" * 90)
    folder.mkdir()
    line = refused(env=environment(TMPDIR=str(folder)))
    assert line.startswith("TMPDIR: must have at most ")
    environment_row("TMPDIR has a path of 100 bytes", "refused at once")


def test_a_cluster_whose_head_is_gone(refused, environment_row):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "{}:{}".format(*server.getsockname())
    line = refused(env=environment(RAY_ADDRESS=address))
    assert line.startswith(f"ray: the head of the cluster at {address} ")
    environment_row("RAY_ADDRESS of a head that is gone", "refused within 5 s")


def test_the_temporary_folder_is_left_as_it_was(sweep, runs, environment_row):
    folder = runs.parent / "t"
    (folder / "ray" / "session_of_another").mkdir(parents=True)
    done = sweep(env=environment(TMPDIR=str(folder)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in folder.iterdir()] == ["ray"]
    assert [path.name for path in (folder / "ray").iterdir()] == ["session_of_another"]
    environment_row("/tmp/ray of other sweeps", "stays; the sweep's own session is removed at its end")
