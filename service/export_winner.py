"""Exporting the winner at the end of a sweep, in a process of its own with a time limit."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from service.process import sweeps_command
from service.records.exported import exported_folder, read_export
from service.views.console import say, warn

__all__ = ["export_winner"]

TIMEOUT = 600.0  # seconds
LARGEST = 1e9  # bytes of weights; the export needs several times as much memory


def export_winner(folder: Path, summary: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Export the network of a complete sweep's winner, if it was kept and is not exported yet.

    Args:
        folder: The sweep's folder.
        summary: The sweep's summary.
        console: Gets a line before the export, which takes a while, and one if the network cannot be exported.

    Returns:
        `exported` for the summary: the trial and the rows of `costs`; empty if nothing is exported.
    """
    winner, level = summary["winner"], summary["target_sparsity"]
    if not winner or not summary["complete"]:
        return {}
    key = winner["checkpoint_trial"]
    kept, to = folder / "trials" / key / "pruned" / f"{level:g}", exported_folder(folder, key, level)
    again = sweeps_command("export", folder.name, "--trial", key, "--format", "onnx", runs=folder.parent)
    if not kept.is_dir():  # --keep none
        return {}
    if not to.exists():
        size = sum(file.stat().st_size for file in kept.glob("*.safetensors"))
        if size > LARGEST:
            warn(console, f"the winner is not exported as ONNX, as it has {size / 1e9:.1f} GB of weights: {again}")
            return {}
        say(console, f"exporting the winner's network as ONNX to {to} (--no-export leaves this out)")
        try:
            if reason := run_export(folder, key, level, to):
                warn(
                    console,
                    f"the winner could not be exported as ONNX ({reason}); its checkpoint is registered: {again}",
                )
                return {}
        except KeyboardInterrupt:
            warn(console, f"the export of the winner was stopped: {again}")
            return {}
    entry = read_export(to)
    return {"exported": {"trial": key, "costs": entry["costs"]}} if entry and "costs" in entry else {}


def run_export(folder: Path, key: str, level: float, to: Path) -> str:
    """Run `sweeps export`. Returns the reason for a failure in one line, or ""."""
    command = [sys.executable, "-m", "sweeps", "export", folder.name, "--runs", str(folder.parent), "--trial", key]
    command += ["--level", repr(level), "--format", "onnx", "--format", "safetensors", "--to", str(to)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # latencies on one CPU thread
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())[-200:]
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else ""
