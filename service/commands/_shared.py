"""What the commands share: options, the folder of a sweep, and errors in one line."""

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import sparsity
from service.errors import fail
from service.process import default_runs, this_python
from trainables.paths import expanded

__all__ = [
    "DEFAULT_RUNS",
    "TAKES_OPTIONS_OF_A_SWEEP",
    "AsJson",
    "Name",
    "Runs",
    "complete_file",
    "complete_recorded",
    "mention_unreadable",
    "nothing_recorded",
    "one_line_errors",
    "print_json",
    "shown_command",
    "stdout_for_json",
    "sweep_folder",
]

# The settings of a command whose further options are those of the sweep that it names.
TAKES_OPTIONS_OF_A_SWEEP = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
}


def expand_runs(context: typer.Context, runs: Path) -> Path:
    try:
        return expanded(runs, "runs")
    except ValueError as error:
        if context.resilient_parsing:  # a shell asks for completions, and its user would see the error
            return runs
        fail(error)


Runs = Annotated[
    Path,
    typer.Option(help="folder of all records; by default $SPARSITY_SWEEPS_RUNS, or runs", callback=expand_runs),
]
DEFAULT_RUNS = default_runs()


def complete_recorded(context: typer.Context, incomplete: str) -> list[str]:
    """The recorded sweeps whose names begin so, for the shell's completion."""
    from service.records.state import find_sweeps

    return [folder.name for folder in find_sweeps(context.params.get("runs") or DEFAULT_RUNS)]


def complete_file(incomplete: str) -> list[str]:
    """The sweeps of the package `sweeps`, for the shell's completion."""
    return sparsity.names("sweeps")


AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs, and nothing else on standard output")]
Name = Annotated[str, typer.Argument(help="the sweep's name", autocompletion=complete_recorded)]


def nothing_recorded(command: str, runs: Path) -> ValueError:
    python = shlex.quote(this_python())
    return ValueError(
        f"{command}: nothing is recorded in {runs} yet; run a sweep first, e.g. {python} -m sweeps.digits"
    )


def sweep_folder(runs: Path, name: str) -> Path:
    from service.records.state import find_sweeps, find_unreadable_sweeps, refuse_unreadable

    sweeps = {folder.name: folder for folder in find_sweeps(runs)}
    if name in {folder.name for folder in find_unreadable_sweeps(runs)}:
        with one_line_errors():
            refuse_unreadable(runs / name)
    if name not in sweeps:
        fail(ValueError(f"sweep: must be one of {', '.join(sweeps) or 'none yet'} (in {runs}), got {name!r}"))
    return sweeps[name]


def mention_unreadable(runs: Path) -> None:
    """Print a line if sweeps are not shown because version 0.1 recorded them."""
    from service.records.state import find_unreadable_sweeps

    if folders := find_unreadable_sweeps(runs):
        names = ", ".join(folder.name for folder in folders)
        typer.echo(
            f"Not shown, because version 0.1 recorded them and this version cannot read its records: {names}", err=True
        )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error as one line and exit with code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        fail(error)


@contextlib.contextmanager
def stdout_for_json(as_json: bool) -> Iterator[None]:
    """With --json, print on standard error what libraries and progress print on standard output."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def shown_command(last_run: dict) -> str:
    """The command that last ran a sweep, for a shell on the host that it was typed on; empty if none is recorded."""
    command = last_run.get("command")
    return f"cd {shlex.quote(last_run['cwd'])} && {shlex.join(command)}" if command else ""
