"""`sweeps repeat`: train trials again and compare them with the records."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands._shared import (
    DEFAULT_RUNS,
    AsJson,
    Name,
    Runs,
    one_line_errors,
    print_json,
    stdout_for_json,
    sweep_folder,
)

__all__ = ["repeat"]


def repeat(
    name: Name,
    trials: Annotated[
        list[str] | None, typer.Argument(metavar="TRIAL...", help="keys of finished trials; by default the winner's")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    data_root: Annotated[Path | None, typer.Option(help="folder of the dataset; default: that of the last run")] = None,
    cpus: Annotated[int, typer.Option(help="threads; the last bits depend on them", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Train trials again, without changing the records, and compare every number with them."""
    from service.records.state import State
    from service.records.summary import current_summary
    from service.repeat import repeat as train_again

    folder = sweep_folder(runs, name)
    with one_line_errors(), stdout_for_json(as_json):
        state = State.read(folder)
        winner = None if trials else current_summary(state)["winner"]
        if not trials and not winner:
            raise ValueError(f"repeat: {name} has no winner yet, so give the key of a trial")
        last = state.last_run.get("data_root")
        root = data_root or (Path(last) if last else None)
        keys = trials or [winner["checkpoint_trial"]]  # type: ignore[index]
        results = []
        for key, found in train_again(state, keys, data_root=root, num_threads=cpus):
            results.append({"trial": key, "differences": found})
            if as_json:
                continue
            typer.echo(f"{key}: {len(found)} numbers differ" if found else f"{key}: every number is the same")
            for line in found:
                typer.echo(f"    {line}")
    if as_json:
        print_json(results)
    raise typer.Exit(1 if any(result["differences"] for result in results) else 0)
