import io

import pytest
import yaml
from rich.console import Console

from service.cluster import hosts
from service.cluster.hosts import may_come, wait_for_hosts


@pytest.fixture
def head(tmp_path, monkeypatch):
    """A function that writes the cluster file of Ray's launcher."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return lambda config: (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))


TYPES = {
    "head": {"resources": {"CPU": 0}, "max_workers": 0},
    "gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8},
}


def test_what_may_come_is_read_from_the_launchers_file(head):
    assert may_come("GPU") == 0  # the launcher did not start this host
    head({"available_node_types": TYPES})
    assert may_come("GPU") == 8
    assert may_come("CPU") == 32


LOCAL = {"provider": {"type": "local", "head_ip": "192.0.2.1", "worker_ips": ["192.0.2.2", "192.0.2.3"]}}


@pytest.mark.parametrize(
    ("joined", "missing"), [(("192.0.2.1", "192.0.2.2", "192.0.2.3"), ""), (("192.0.2.1", "192.0.2.3"), "192.0.2.2")]
)
def test_missing_hosts_are_named_and_waited_for_only_so_long(head, monkeypatch, joined, missing):
    head(LOCAL)
    monkeypatch.setattr(hosts, "JOIN_TIMEOUT", 0.0)
    monkeypatch.setattr(hosts, "alive", lambda: [{"NodeManagerAddress": address} for address in joined])
    console = Console(file=io.StringIO(), width=500)
    wait_for_hosts(console)
    assert console.file.getvalue().startswith(f"{missing} did not join the cluster" if missing else "")
    assert bool(console.file.getvalue()) == bool(missing)
