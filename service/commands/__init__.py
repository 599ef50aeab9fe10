"""`sweeps`, or `python -m sweeps`: the commands on recorded and running sweeps, one per file.

A new file needs no registration: its name is the name of the command, and its `__all__` names the function. `SETTINGS`
of a file, if any, are arguments of `typer.Typer.command`. Files whose name starts with an underscore are helpers. Every
start imports all files, so import what takes long (torch, SciPy, Ray, MLflow, Matplotlib) inside the functions.
"""

import importlib
from importlib import metadata
from typing import Annotated

import typer

import sparsity
import sparsity_sweeps  # noqa: F401 (its checks of our packages)
from service.process import prepare_process

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"sparsity-sweeps {metadata.version('sparsity-sweeps')}")
        except metadata.PackageNotFoundError:
            typer.echo("sparsity-sweeps, not installed")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Look at recorded sweeps. To run a sweep, start its file: python sweeps/digits.py --help"""
    prepare_process()


for name in sparsity.names(__name__):
    module = importlib.import_module(f"{__name__}.{name}")
    (function,) = module.__all__
    app.command(name.replace("_", "-"), **getattr(module, "SETTINGS", {}))(getattr(module, function))
