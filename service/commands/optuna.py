"""`sweeps optuna`: the search as an Optuna study, for optuna-dashboard."""

import shlex

import typer

from service.commands._shared import DEFAULT_RUNS, Name, Runs, one_line_errors, sweep_folder

__all__ = ["optuna"]


def optuna(name: Name, runs: Runs = DEFAULT_RUNS) -> None:
    """Write the search as a study of Optuna, and print the command that opens it in Optuna's dashboard."""
    from service.records.state import State
    from service.views.optuna_study import write_study

    folder = sweep_folder(runs, name)
    path = folder / "optuna.log"
    with one_line_errors():
        num = write_study(State.read(folder, evaluations=False), path)
    typer.echo(f"{name}: {num} trials of the search as a study of Optuna: {path}")
    typer.echo("open it:  pip install optuna-dashboard")
    typer.echo(f"          optuna-dashboard --storage-class JournalFileStorage {shlex.quote(str(path))}")
