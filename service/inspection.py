"""`sweeps inspect`: the network of a sweep, and what is pruned of it, without running anything."""

import contextlib
import json
import runpy
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from service.checks import check
from service.cluster.submit import sweep_file
from service.errors import fail
from service.spec import SweepSpec
from service.views.console import make_console, print_whole
from sparsity.import_strings import short_name
from trainables.network_summary import Weight, in_words

__all__ = ["find_sweep", "inspect_network", "network_table"]


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


def inspect_network(sweep: SweepSpec, *, as_json: bool = False) -> None:
    """Print every parameter of a sweep's network, with why pruning leaves it out."""
    console = make_console()
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            weights = check(sweep, writes=False).network
    except (ValueError, OSError) as error:
        fail(error)
    if as_json:
        print(
            json.dumps(
                {"sweep": sweep.name, "architecture": sweep.trial.architecture, "weights": list(map(asdict, weights))},
                indent=2,
            )
        )
        return
    print_whole(console, network_table(weights))
    for line in in_words(weights, short_name(sweep.trial.architecture), hint=False):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


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
