"""`sweeps bundle`: everything that training a sweep's trials again needs, in one archive."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands._shared import DEFAULT_RUNS, AsJson, Name, Runs, one_line_errors, print_json, sweep_folder

__all__ = ["bundle"]


def bundle(
    name: Name,
    runs: Runs = DEFAULT_RUNS,
    to: Annotated[Path | None, typer.Option(help="archive to write; by default NAME-bundle.tar.gz here")] = None,
    as_json: AsJson = False,
) -> None:
    """Pack a sweep's records with what is needed to train its trials again elsewhere."""
    from service.records.bundle import bundle as write_bundle
    from service.records.state import State

    folder = sweep_folder(runs, name)
    path = to or Path(f"{name}-bundle.tar.gz")
    with one_line_errors():
        num_files = write_bundle(State.read(folder), path)
    if as_json:
        print_json({"sweep": name, "archive": str(path), "num_files": num_files})
        return
    typer.echo(f"{path}: {num_files} files. Unpack it and run ./reproduce.sh CHECKOUT to train a trial again.")
