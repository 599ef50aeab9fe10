"""Checks of a cluster before the first trial. Each fault is one line that says what to do."""

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from service.cluster.hosts import alive, node_types
from service.records.passwords import hide_passwords
from service.tracking.mlflow_writer import MlflowWriter
from service.views.console import warn
from sparsity_sweeps import PACKAGES

__all__ = ["check_cluster"]

PROBE_TIMEOUT = 120.0  # seconds for a host to answer: it imports Ray's worker, perhaps from a busy disk
SIGHT_TIMEOUT = 15.0  # seconds until a file must be visible on another host: NFS caches folders


# ---- what a host answers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a host reports.

    Args:
        storage: What is wrong with the records' folder there; empty if nothing is.
        num_gpus: Number of GPUs that torch finds; None if it was not asked.
    """

    host: str
    storage: str = ""
    software: Mapping[str, str] = field(default_factory=dict)
    num_gpus: int | None = None


def software() -> dict[str, str]:
    """Versions that must be the same on all hosts: Python, the libraries that decide the numbers, and our own code."""
    from importlib.metadata import version

    code = hashlib.sha256()
    for package in sorted(PACKAGES):
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".c")):
            code.update(str(path.relative_to(folder.parent)).encode() + b"\0" + path.read_bytes())
    names = ("torch", "torchvision", "numpy", "ray", "scikit-learn", "transformers", "peft", "safetensors")
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{name: version(name) for name in names},
        "sparsity-sweeps' code": code.hexdigest()[:12],
    }


def answer(folder: str, token: str, count_gpus: bool) -> Answer:
    """Runs on each host: check the records' folder, and report the software."""
    host = ray.util.get_node_ip_address()
    storage = ""
    try:
        if not sees(Path(folder) / "driver", token):
            storage = "does not see the driver's file"
        else:
            (Path(folder) / host).write_text(token)
    except OSError as error:
        storage = f"cannot read or write ({error.strerror})"
    num_gpus = None
    if count_gpus:
        import torch

        num_gpus = torch.cuda.device_count()
    return Answer(host, storage, software(), num_gpus)


def sees(path: Path, token: str, timeout: float | None = None) -> bool:
    deadline = time.monotonic() + (SIGHT_TIMEOUT if timeout is None else timeout)
    while True:
        try:
            if path.read_text() == token:
                return True
        except FileNotFoundError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)


# ---- the check ---------------------------------------------------------------------------------------------------


def check_cluster(folder: Path, resources: Mapping[str, float], tracking_uri: str, console: Console) -> None:
    """Check that trials can run on the hosts of the joined cluster.

    A tracking server that does not answer is not a fault: it gets the records later. If this host is the only one,
    there is nothing to check.

    Args:
        folder: The sweep's folder, which every host must see.
        resources: What a trial reserves.

    Raises:
        ValueError: For the last fault; those before it are printed.
    """
    nodes = alive()
    fitting = [node for node in nodes if fits(node, resources)]
    here = ray.get_runtime_context().get_node_id()
    if [node["NodeID"] for node in fitting] == [here] and len(nodes) == 1:
        return
    faults = [] if fitting else room_faults(nodes, resources)
    faults += tracking_faults(folder, tracking_uri, console)
    if not faults:
        with console.status(f"Asking the {len(nodes)} hosts of the cluster ..."):
            faults = ask(nodes, folder, resources)
    if not faults and not fitting:  # the first worker is yet to be started
        with console.status("Waiting for the autoscaler to start the first worker (minutes) ..."):
            faults = ask(None, folder, resources)
    for fault in faults[:-1]:
        warn(console, fault, style="red")
    if faults:
        raise ValueError(faults[-1])


def fits(node: Mapping[str, Any], resources: Mapping[str, float]) -> bool:
    return all(node["Resources"].get(name.upper(), 0) >= amount for name, amount in resources.items())


def room_faults(nodes: list[dict[str, Any]], resources: Mapping[str, float]) -> list[str]:
    """Why no host, present or expected, can run a trial."""
    if os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE"):
        return []  # on Kubernetes, only KubeRay's operator knows which hosts can be started
    faults = []
    hosts = [node["Resources"] for node in nodes] + [t.get("resources", {}) for t in node_types()]
    for name, amount in resources.items():
        most = max(host.get(name.upper(), 0) for host in hosts)
        if amount > most:
            hint = "0" if not most else f"{most:g} or less"
            faults.append(
                f"{name}s: must fit on one host of the cluster (the largest has {most:g}), got {amount:g}: "
                f"try --{name}s {hint}"
            )
    return faults


def tracking_faults(folder: Path, uri: str, console: Console) -> list[str]:
    """Why MLflow's server refuses records.

    To find out, this creates the sweep's run: the server answers /health even without a valid password.
    """
    if not uri.startswith("http"):
        return []
    try:
        with console.status(f"Asking MLflow at {hide_passwords(uri)} ..."):
            MlflowWriter(folder, uri)
    except Exception as error:
        text, shown = hide_passwords(" ".join(str(error).split())), hide_passwords(uri)
        if "failed with error code" not in text and not hasattr(error, "json"):  # not an HTTP answer
            warn(
                console,
                f"MLflow at {shown} does not answer. The records are kept and sent later. Start it with "
                "clusters/mlflow.sh, or correct MLFLOW_TRACKING_URI",
            )
            return []
        if "401" in text:
            hint = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        elif "Invalid Host" in text:
            name = urlsplit(uri).hostname
            hint = f"start it with MLFLOW_SERVER_ALLOWED_HOSTS='{name},{name}:*' (clusters/mlflow.sh: MLFLOW_NAMES)"
        else:
            hint = "correct MLFLOW_TRACKING_URI or --tracking-uri"
        return [f"tracking server: {shown} refused this sweep's records with {text[:200]!r}: {hint}"]
    return []


def ask(nodes: list[dict[str, Any]] | None, folder: Path, resources: Mapping[str, float]) -> list[str]:
    """The faults of `nodes`; if None, those of the first host that has room for a trial."""
    shared, token = folder / f"preflight-{uuid4().hex[:8]}", uuid4().hex
    shared.mkdir(parents=True)
    (shared / "driver").write_text(token)
    probe = ray.remote(max_retries=0)(answer)
    try:
        if nodes is None:
            room = {f"num_{name}s": amount for name, amount in resources.items()}
            answers: list[Answer | Exception] = [get(probe.options(**room).remote(str(shared), token, False), None)]
            names = [a.host if isinstance(a, Answer) else "the first worker" for a in answers]
        else:
            names = [node["NodeManagerAddress"] for node in nodes]
            counts = ["gpu" in resources and node["Resources"].get("GPU", 0) > 0 for node in nodes]
            pending = []
            for node, count in zip(nodes, counts, strict=True):
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                options = probe.options(num_cpus=0, scheduling_strategy=place)
                pending.append(options.remote(str(shared), token, count))
            deadline = time.monotonic() + PROBE_TIMEOUT
            answers = [get(ref, max(0.1, deadline - time.monotonic())) for ref in pending]
        found: dict[str, list[str]] = {}
        here = software()
        for index, name in enumerate(names):
            counted = nodes[index]["Resources"].get("GPU", 0) if nodes is not None else 0
            for fault in faults_of(answers[index], shared, token, here, counted):
                found.setdefault(fault, []).append(name)
        return [f"{', '.join(sorted(hosts))}: {fault}" for fault, hosts in found.items()]
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def get(ref: Any, timeout: float | None) -> Answer | Exception:
    try:
        return ray.get(ref, timeout=timeout)
    except Exception as error:
        return error


def faults_of(
    answer: Answer | Exception, shared: Path, token: str, here: Mapping[str, str], num_gpus: float
) -> list[str]:
    if isinstance(answer, Exception):
        lines = [line for line in str(answer).strip().splitlines() if line.strip()]
        if "ModuleNotFoundError" in str(answer):
            missing = next(line for line in reversed(lines) if "ModuleNotFoundError" in line)
            return [
                f"the project must be installed there ({missing.strip()}): run clusters/setup.sh, or `ray up` again"
            ]
        if isinstance(answer, ray.exceptions.GetTimeoutError):
            return [f"did not answer within {PROBE_TIMEOUT:g} s: see `ray status`, or remove it from the cluster"]
        return [f"could not run a task, which failed with {type(answer).__name__}: {lines[-1][:300] if lines else ''}"]
    faults = []
    storage = answer.storage
    if not storage and not sees(shared / answer.host, token):
        storage = "wrote a file that the driver does not see"
    if storage:
        faults.append(
            f"{storage} in the records' folder {shared.parent.parent}, which every host must be able to read and "
            "write: mount shared storage and set SPARSITY_SWEEPS_RUNS or --runs to a folder on it"
        )
    different = [
        f"{name} {answer.software.get(name)} (driver: {here[name]})"
        for name in here
        if answer.software.get(name) != here[name]
    ]
    if different:
        faults.append(f"has other versions than the driver's host, {', '.join(different)}: run `ray up` again")
    if answer.num_gpus is not None and answer.num_gpus < num_gpus:
        faults.append(
            f"torch must see the {num_gpus:g} GPUs that Ray counts there, sees {answer.num_gpus}: install NVIDIA's "
            "driver, or start Ray there with --num-gpus=0"
        )
    return faults
