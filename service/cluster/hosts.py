"""The hosts of the cluster that this process has joined, present and expected."""

import time
from pathlib import Path
from typing import Any

import ray
import yaml
from rich.console import Console

from service.views.console import warn

__all__ = ["alive", "may_come", "node_types", "wait_for_hosts"]

JOIN_TIMEOUT = 90.0  # seconds for the hosts of a fixed list to join: `ray up` returns before they have


def cluster_file() -> dict[str, Any]:
    """The cluster file that Ray's launcher leaves on the head; empty elsewhere."""
    path = Path("~/ray_bootstrap_config.yaml").expanduser()
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def node_types() -> list[dict[str, Any]]:
    """The types of hosts that the autoscaler may start."""
    return list(cluster_file().get("available_node_types", {}).values())


def may_come(resource: str) -> float:
    """How much of a resource the autoscaler may start, according to the cluster file."""
    return sum(t.get("resources", {}).get(resource, 0) * t.get("max_workers", 0) for t in node_types())


def alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def wait_for_hosts(console: Console) -> None:
    """Wait for the hosts that the cluster file lists. After JOIN_TIMEOUT, warn and continue without the others."""
    provider = cluster_file().get("provider", {})
    if provider.get("type") != "local":
        return
    expected = {provider["head_ip"], *provider["worker_ips"]}
    deadline = time.monotonic() + JOIN_TIMEOUT
    with console.status(f"Waiting for the {len(expected)} hosts of the cluster ...") as status:
        while missing := expected - {node["NodeManagerAddress"] for node in alive()}:
            if time.monotonic() > deadline:
                break
            status.update(f"Waiting for {', '.join(sorted(missing))} to join the cluster ...")
            time.sleep(1)
    if missing:
        warn(
            console,
            f"{', '.join(sorted(missing))} did not join the cluster; the sweep continues without. To see why: "
            "ray exec CLUSTER.yaml 'tail /tmp/ray/session_latest/logs/monitor*'",
        )
