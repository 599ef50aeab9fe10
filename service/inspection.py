"""The sweep of a file, and the weights of its network as a table."""

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from service.cluster.submit import sweep_file
from service.spec import SweepSpec
from trainables.network_summary import Weight

__all__ = ["find_sweep", "network_table"]


def find_sweep(sweep: str) -> SweepSpec:
    """The sweep of a file, or of a name such as digits.

    Raises:
        ValueError: If there is no such file, or it has no sweep.
    """
    path = sweep_file(sweep)
    found = [value for value in load_values(path).values() if isinstance(value, SweepSpec)]
    if not found:
        raise ValueError(f"inspect: {path} must have a Sweep(...) as a variable of the module, got none")
    return found[0]


def load_values(path: Path) -> Mapping[str, Any]:
    return runpy.run_path(str(path))


def network_table(weights: list[Weight]) -> Table:
    """A row for each parameter."""
    table = Table(box=None, pad_edge=False)
    for name in ("name", "layer", "shape", "weights", "pruned", "penalized", "why not pruned"):
        table.add_column(name, justify="right" if name == "weights" else "left", overflow="fold")
    for weight in weights:
        shape = "x".join(map(str, weight.shape)) or "1"
        marks = ["yes" if marked else "-" for marked in (weight.prunable, weight.regularized)]
        table.add_row(weight.name, weight.layer, shape, f"{weight.num:,}", *marks, weight.left_out)
    return table
