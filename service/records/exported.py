"""The exported network of a sweep's winner, which becomes a model in MLflow."""

import json
from pathlib import Path
from typing import Any

from service.records.summary import level_name

__all__ = ["ONNX_FILE", "exported_folder", "read_export"]

ONNX_FILE = "model.onnx"


def exported_folder(sweep: Path, trial: str, level: float) -> Path:
    """Where the network of a trial is exported to, in the sweep's folder."""
    return sweep / "exported" / f"{trial}-{level_name(level)}"


def read_export(folder: Path) -> dict[str, Any] | None:
    """The entry `export` of an exported network's description; None if there is no such folder or entry.

    The description is in sparsity.json for a language model, else in config.json. It is read here without the packages
    that write it, because they import torch.
    """
    hub = folder / "sparsity.json"
    try:
        described = json.loads((hub if hub.exists() else folder / "config.json").read_text())
        return described.get("sparsity_sweeps", described)["export"]  # earlier versions used this key
    except (OSError, ValueError, KeyError, AttributeError):
        return None
