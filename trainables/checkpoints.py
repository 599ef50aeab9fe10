"""The last two checkpoints of a running trial, so that a damaged one costs an evaluation and not the trial."""

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.files import write_atomically

__all__ = ["LATEST", "PREVIOUS", "read_checkpoint", "remove_checkpoints", "save_checkpoint"]

LATEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state` as the latest checkpoint of `folder`; the one before becomes the previous one.

    Args:
        state: Tensors, numbers, strings, None, and dictionaries and lists of them.

    Raises:
        OSError, RuntimeError: If it cannot be written; torch raises RuntimeError on a full disk.
    """
    latest = folder / LATEST
    if latest.exists():
        os.replace(latest, folder / PREVIOUS)
    write_atomically(latest, lambda path: torch.save(state, path))


def read_checkpoint(content: bytes) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU. Only tensors and plain values are unpickled.

    Args:
        content: What the file holds. It is read by the caller, who can then tell damage from a file that is not
            reachable: zipfile raises OSError for both.

    Raises:
        Exception: Of many types, if it is truncated, altered or something else.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:  # torch.save writes checksums, but torch.load ignores them
        if damaged := file.testzip():
            raise ValueError(f"{damaged} does not match its checksum")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def remove_checkpoints(folder: Path) -> None:
    """Delete both checkpoints, and partial files that a killed process has left."""
    for path in folder.glob("checkpoint.*"):
        path.unlink(missing_ok=True)
