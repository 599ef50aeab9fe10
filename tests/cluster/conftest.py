"""A head and two workers on this one machine, each with its own network, processes and sshd (`minihosts`), and on them
the cluster of clusters/on_prem.yaml, started by `ray up` over SSH as on any other machines."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINIHOSTS = Path(__file__).parent / "minihosts"
NUM_HOSTS = 3
NEEDED = ("sshd", "rsync", "ip", "bridge", "unshare", "nsenter", "pivot_root", "ssh-keygen")  # Debian: openssh-server,
# rsync, iproute2, util-linux


def missing() -> str:
    """Why hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "it must run as root (it makes network namespaces)"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    lacking = [name for name in NEEDED if shutil.which(name, path=path) is None]
    return f"{', '.join(lacking)} must be installed (openssh-server, rsync, iproute2)" if lacking else ""


class Hosts:
    """`minihosts up 3`, and the way to talk to them. A context manager; afterwards nothing of them is left."""

    def __init__(self, *, read_only=()):
        self.folder = Path(tempfile.mkdtemp(prefix="sweeps-cluster-", dir="/var/tmp"))  # no tmpfs: overlays lie on it
        self.shared = self.folder / "shared"  # every host sees it, and so does this machine
        self.shared.mkdir()
        self.read_only = read_only
        self.environment = {
            **os.environ,
            "MINIHOSTS_DIR": str(self.folder / "hosts"),
            "MINIHOSTS_SHM": "1g",
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "TMPDIR": str(self.folder / "tmp"),  # where Ray's launcher keeps what it knows of its clusters
        }
        (self.folder / "tmp").mkdir()
        self.namespaces: set[str] = set()

    def __enter__(self) -> "Hosts":
        # Each host may install into the environment without this machine or another host seeing it.
        shares = ["--cow", sys.prefix, "--venv", sys.prefix, "--nfs", str(self.shared)]
        for path in self.read_only:
            shares += ["--share", str(path)]
        try:
            self.call("up", str(NUM_HOSTS), *shares)
            pids = [self.folder / "hosts" / "lan.pid", *sorted((self.folder / "hosts" / "hosts").glob("*/pid"))]
            for pid in (path.read_text().split()[0] for path in pids):
                self.namespaces |= {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("net", "pid")}
            self.namespaces -= {os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "pid")}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.call("down", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, *arguments, check=True, timeout=120, **more):
        """A command of `minihosts`; its stdout."""
        done = subprocess.run(
            [MINIHOSTS, *arguments],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=timeout,
            **more,
        )
        if check and done.returncode:
            raise AssertionError(
                f"minihosts {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stdout}"
            )
        return done.stdout

    def lan(self, *command, **more):
        """A command of this machine that talks to the hosts."""
        return self.call("lan", "--", *map(str, command), **more)

    def ssh(self, host, command, **more):
        """A command in a login shell of host 1 (the head), 2 or 3, as a user would have it."""
        return self.call("ssh", str(host), f"bash -ilc {quote(command)} 2>/dev/null", **more)

    def address(self, host):
        return self.call("ip", str(host)).strip()

    def left(self) -> list[str]:
        """Command lines of processes that still run in the namespaces of these hosts."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                kinds = {os.readlink(process / "ns" / kind) for kind in ("net", "pid")}
                if kinds & self.namespaces:
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found


def quote(text):
    import shlex

    return shlex.quote(text)


class Cluster:
    """clusters/on_prem.yaml filled in for the hosts, and up."""

    def __init__(self, hosts: Hosts):
        self.hosts = hosts
        self.runs = hosts.shared / "runs"
        self.is_up = False
        self.uri = f"http://{hosts.address(1)}:5000"
        self.file = hosts.folder / "cluster.yaml"
        self.file.write_text(self._filled_in((ROOT / "clusters" / "on_prem.yaml").read_text()))

    def _filled_in(self, text: str) -> str:
        """What a user fills in, and the size of the hosts: they all see the CPUs and memory of this one machine."""
        workers = ", ".join(self.hosts.address(host) for host in range(2, NUM_HOSTS + 1))
        fields = {
            "cluster_name": "over-ssh",
            "head_ip": self.hosts.address(1),
            "worker_ips": f"[{workers}]",
            "ssh_user": "root",
            "ssh_private_key": self.hosts.call("key").strip(),
        }
        for name, value in fields.items():
            text, count = re.subn(rf"^( *{name}): .*$", rf"\1: {value}", text, flags=re.MULTILINE)
            assert count == 1, name
        settings = {"SHARED": self.hosts.shared, "MLFLOW_HOST": "0.0.0.0"}
        for name, value in settings.items():
            text, count = re.subn(rf"^( *{name})=.*$", rf"\1={value}", text, flags=re.MULTILINE)
            assert count == 1, name
        text = text.replace("\n    END\n", f"\n    VENV={sys.prefix}\n    MLFLOW_WORKERS=1\n    END\n")
        size = "--num-cpus=1 --memory=2000000000 --object-store-memory=200000000"
        return re.sub(r"ray start (--head|--address)", rf"ray start {size} \1", text)

    def up(self):
        self.is_up = True
        self.hosts.lan("ray", "up", "-y", self.file, "--disable-usage-stats", timeout=600, stderr=subprocess.STDOUT)

    def submit(self, script, *arguments, **more):
        """Ray's own `ray submit`, as the README has it."""
        more = {"timeout": 600, "stderr": subprocess.STDOUT, **more}
        return self.hosts.lan("ray", "submit", self.file, script, "--", *arguments, **more)

    def sweeps(self, *arguments, **more):
        """`python -m sweeps ...` on this machine."""
        more = {"timeout": 600, "stderr": subprocess.STDOUT, **more}
        return self.hosts.lan(sys.executable, "-m", "sweeps", *arguments, **more)

    def password(self):
        return self.hosts.ssh(1, "bash ~/sparsity-sweeps/clusters/mlflow.sh password").strip()

    def down(self):
        """As docs/cluster.md has it: MLflow, the workers, the head."""
        if not self.is_up:
            return
        self.is_up = False
        self.hosts.ssh(1, "bash ~/sparsity-sweeps/clusters/mlflow.sh stop", check=False)
        for host in range(2, NUM_HOSTS + 1):
            self.hosts.ssh(host, "ray stop", check=False)
        self.hosts.lan("ray", "down", "-y", self.file, check=False, stderr=subprocess.STDOUT)


@pytest.fixture(scope="session")
def hosts():
    if why := missing():
        pytest.skip(f"no pretend hosts here: {why}")
    cifar10 = os.environ.get("CIFAR10_ROOT")
    with Hosts(read_only=[Path(cifar10).resolve()] if cifar10 else []) as made:
        yield made
    deadline = time.monotonic() + 10
    while made.left() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert made.left() == []


@pytest.fixture(scope="session")
def cluster(hosts):
    made = Cluster(hosts)
    try:
        made.up()
        yield made
    finally:
        made.down()
