"""Small sweeps on digits in unusual environments.

`make test-environments` runs every file of this folder, and `make test` collects none of them: the tests need root, a
chroot or minutes. Put the tests of one subject into one file, e.g. `users.py`. These fixtures are there:

- `runs`: an empty folder for records that every user can write.
- `sweep(*flags, env=None, under=(), cwd=None)`: run two trials of a second and return the CompletedProcess, with text
  output. `env` is the whole environment of the process, e.g. `environment(HOME=None)` from tests/_digits.py. `under` is
  the command that the sweep's command is appended to.
- `as_user(uid)`: an `under` that changes to a user id without an account. Skips without root.
- `tmpfs(size, *options)`: a new file system in memory, with further options of `mount`. Skips without root.
- `environment_row(environment, what_happens)`: write this row of the table in docs/reliability.md if the test passes.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests._digits import REPOSITORY

QUICK = ["--epochs", "1", "--evaluations", "1", "--model", "width=4"]
QUICK += ["--trials", "1", "--search-seeds", "1", "--confirm", "0"]
ARMS = ["--optimizer", "sgd", "--regularizer", "none", "--regularizer", "wcr"]


@pytest.fixture
def runs():
    with tempfile.TemporaryDirectory(prefix="sweep-") as parent:  # pytest's own folders are closed to other users
        os.chmod(parent, 0o755)
        folder = Path(parent) / "runs"
        folder.mkdir()
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def sweep(runs):
    def run(*flags, env=None, under=(), cwd=None, timeout=600):
        command = [sys.executable, str(REPOSITORY / "sweeps" / "digits.py"), "--runs", str(runs), *QUICK, *ARMS, *flags]
        options = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": timeout}
        return subprocess.run([*under, *command], env=env, cwd=cwd or runs, **options)

    return run


@pytest.fixture
def as_user():
    if os.geteuid() != 0:
        pytest.skip("it must run as root (it changes to another user)")

    def under(uid):
        change = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        return ["unshare", "--mount", "sh", "-c", f'{open_to_all()}exec {shlex.join(change)} "$@"', "sh"]

    return under


def open_to_all():
    """Shell commands that, in a mount namespace, let every user reach Python and this repository, even below /root."""
    needed = {Path(path).resolve() for path in (sys.base_prefix, sys.prefix, REPOSITORY)}
    hidden = {p for folder in needed for p in folder.parents if not p.stat().st_mode & 0o001}
    lines = []
    for closed in sorted(hidden):
        inside = [folder for folder in sorted(needed) if folder.is_relative_to(closed)]
        lines += [f"mkdir -p /mnt/{i} && mount --bind {shlex.quote(str(f))} /mnt/{i}" for i, f in enumerate(inside)]
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(closed))}")
        for i, folder in enumerate(inside):
            quoted = shlex.quote(str(folder))
            lines.append(f"mkdir -p {quoted} && mount --move /mnt/{i} {quoted}")
    if lines:
        lines.insert(0, "mount -t tmpfs tmpfs /mnt")
    return "set -e\n" + "".join(f"{line}\n" for line in lines)


@pytest.fixture
def tmpfs(runs):
    if os.geteuid() != 0:
        pytest.skip("it must run as root (it mounts a file system)")
    folders = []

    def make(size, *options):
        folder = runs.parent / f"tmpfs{len(folders)}"  # pytest's own folders are too long for Ray's sockets
        folder.mkdir()
        options = ",".join((f"size={size}", *options))
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
        folders.append(folder)
        return folder

    yield make
    for folder in folders:
        subprocess.run(["umount", "--lazy", folder], check=True)
