"""`sweeps inspect`: the weights of a sweep's network."""

import functools
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands._shared import (
    TAKES_OPTIONS_OF_A_SWEEP,
    AsJson,
    complete_file,
    one_line_errors,
    print_json,
    stdout_for_json,
)

if TYPE_CHECKING:
    from service.spec import SweepSpec

__all__ = ["inspect"]

SETTINGS = TAKES_OPTIONS_OF_A_SWEEP


def inspect(
    context: typer.Context,
    sweep: Annotated[
        str, typer.Argument(help="a sweep's name, e.g. digits, or its file", autocompletion=complete_file)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the weights of a network, and which of them are pruned: sweeps inspect digits --architecture resnet18"""
    from service.cli import make_command
    from service.inspection import find_sweep

    if not sweep or sweep.startswith("-"):
        typer.echo(context.get_help())
        raise typer.Exit(0 if sweep == "--help" else 2)
    with one_line_errors():
        found = find_sweep(sweep)
    command = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    command.command(name=f"inspect {sweep}", help="Options of the sweep. --json prints JSON for programs.")(
        make_command(found, functools.partial(show_network, as_json=as_json))
    )
    command(args=context.args, prog_name=f"sweeps inspect {sweep}")


def show_network(sweep: "SweepSpec", *, as_json: bool = False) -> None:
    """Print every parameter of a sweep's network, with why pruning leaves it out."""
    from service.announcements import announce_network
    from service.checks import check
    from service.inspection import network_table
    from service.views.console import make_console, print_whole

    with one_line_errors(), stdout_for_json(as_json):
        weights = check(sweep, writes=False).network
    if as_json:
        rows = [asdict(weight) for weight in weights]
        print_json({"sweep": sweep.name, "architecture": sweep.trial.architecture, "weights": rows})
        return
    console = make_console()
    print_whole(console, network_table(weights))
    announce_network(weights, sweep.trial.architecture, console, hint=False)
