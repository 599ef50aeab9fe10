"""`sweeps best`: the best configuration of each arm."""

from typing import Annotated

import typer

from service.commands._shared import DEFAULT_RUNS, AsJson, Runs, mention_unreadable, one_line_errors, print_json
from service.errors import fail

__all__ = ["show_best"]


def show_best(
    runs: Runs = DEFAULT_RUNS,
    architecture: Annotated[str | None, typer.Option(help="only this network")] = None,
    dataset: Annotated[str | None, typer.Option(help="only this dataset")] = None,
    optimizer: Annotated[str | None, typer.Option(help="only this optimizer")] = None,
    regularizer: Annotated[str | None, typer.Option(help="only this regularizer")] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="at this sparsity, in [0, 1); by default at the target of each sweep")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="at every sparsity")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the best configuration of each arm (an optimizer with a regularizer) at the target sparsity."""
    from service.records.best import best
    from service.records.state import find_sweeps
    from service.views.console import make_console, print_whole
    from service.views.tables import best_table

    mention_unreadable(runs)
    with one_line_errors():
        rows = best(runs, architecture=architecture, dataset=dataset, optimizer=optimizer, regularizer=regularizer)
    if not every:
        rows = [row for row in rows if (row["is_target"] if sparsity is None else row["sparsity"] == sparsity)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        there = ", ".join(folder.name for folder in find_sweeps(runs)) or "none"
        fail(ValueError(f"best: no finished trial in {runs} matches (sweeps there: {there})"))
    print_whole(make_console(), best_table(rows))
