"""`sweeps stop`: end a running sweep."""

import time
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

__all__ = ["stop"]


def stop(
    name: Name,
    runs: Runs = DEFAULT_RUNS,
    wait: Annotated[float, typer.Option(help="seconds to wait for its end", min=0)] = 120,
    as_json: AsJson = False,
) -> None:
    """Stop a running sweep, like Ctrl-C, from any host that sees its folder. Its command continues it."""
    from service.records.lock import lock_holder, request_stop
    from service.records.state import State

    folder = sweep_folder(runs, name)
    process = lock_holder(folder)
    if not process:
        if as_json:
            print_json({"sweep": name, "stopped": False, "process": "", "command": None})
        else:
            typer.echo(f"{name} is not running.")
        return
    request_stop(folder)
    deadline = time.monotonic() + wait
    while lock_holder(folder) == process and time.monotonic() < deadline:
        time.sleep(0.5)
    if lock_holder(folder) == process:
        fail(ValueError(f"stop: {name} was asked to stop {wait:g} s ago and is still run by {process}"))
    with one_line_errors():
        last_run = State.read(folder, evaluations=False).last_run
    if as_json:
        print_json({"sweep": name, "stopped": True, "process": process, "command": last_run.get("command")})
        return
    typer.echo(f"{name} has stopped; it was run by {process}. To continue, run the same command again.")
    if command := shown_command(last_run):
        typer.echo(command)
