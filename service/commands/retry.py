"""`sweeps retry`: run failed trials again."""

import contextlib
import os
import sys
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
    shown_command,
    sweep_folder,
)
from service.errors import fail

__all__ = ["retry"]


def retry(
    name: Name,
    runs: Runs = DEFAULT_RUNS,
    diverged: Annotated[
        bool, typer.Option("--diverged", help="also retry diverged trials; the same code diverges again")
    ] = False,
    start: Annotated[bool, typer.Option(help="continue the sweep at once, with its last command")] = True,
    as_json: AsJson = False,
) -> None:
    """Retry the trials that ended in an error, were lost or ran out of memory, and continue the sweep."""
    from service.records.passwords import HIDDEN
    from service.records.recorder import RETRIED, Recorder
    from trainables.result import Status

    folder = sweep_folder(runs, name)
    if as_json and start:
        fail(
            ValueError("retry: --json must be given with --no-start (a started sweep prints its progress), got --start")
        )
    with (
        one_line_errors(),
        contextlib.closing(Recorder(folder)) as recorder,
    ):
        keys = recorder.retry((*RETRIED, Status.DIVERGED) if diverged else RETRIED)
        last = recorder.state.last_run
    if as_json:
        print_json({"sweep": name, "trials": list(keys), "command": last.get("command")})
        return
    typer.echo(f"{len(keys)} trials of {name} will run again{': ' if keys else ''}{', '.join(keys)}")
    command = last.get("command")
    if not keys or not start:
        return
    if not command or any(HIDDEN in word for word in command):
        typer.echo("Run the sweep's command to start them.")
        return
    missing = [path for path in (Path(last["cwd"]), Path(last["cwd"], command[0])) if not path.exists()]
    if missing:
        typer.echo(f"Run the sweep's command to start them. {missing[0]}, with which it ran last, does not exist:")
    typer.echo(shown_command(last))
    if missing:
        return
    sys.stdout.flush()
    os.chdir(last["cwd"])
    os.execv(command[0], command)
