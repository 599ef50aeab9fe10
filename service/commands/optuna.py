"""`sweeps optuna`: the search as an Optuna study, for optuna-dashboard."""

import shlex

import typer

from service.commands._shared import DEFAULT_RUNS, AsJson, Name, Runs, one_line_errors, print_json, sweep_folder

__all__ = ["optuna"]


def optuna(name: Name, runs: Runs = DEFAULT_RUNS, as_json: AsJson = False) -> None:
    """Write the search as a study of Optuna, and print the command that opens it in Optuna's dashboard."""
    from service.records.state import State
    from service.views.optuna_study import write_study

    folder = sweep_folder(runs, name)
    path = folder / "optuna.log"
    with one_line_errors():
        num = write_study(State.read(folder, evaluations=False), path)
    words = ["optuna-dashboard", "--storage-class", "JournalFileStorage", str(path)]
    if as_json:
        print_json({"sweep": name, "trials": num, "file": str(path), "command": words})
        return
    typer.echo(f"{name}: {num} trials of the search as a study of Optuna: {path}")
    typer.echo("open it:  pip install optuna-dashboard")
    typer.echo(f"          {shlex.join(words)}")
