"""`sweeps submit`: run a sweep on a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands._shared import complete_file
from service.errors import fail

__all__ = ["submit"]


def submit(
    cluster: Annotated[Path, typer.Argument(help="cluster file, e.g. cluster.yaml")],
    sweep: Annotated[
        str, typer.Argument(help="a sweep's name, e.g. cifar10, or its file", autocompletion=complete_file)
    ],
    arguments: Annotated[list[str] | None, typer.Argument(help="the sweep's own options, after --")] = None,
    tmux: Annotated[bool, typer.Option("--tmux", help="return at once; the sweep runs in tmux on the head")] = False,
) -> None:
    """Run a sweep on a cluster: `ray submit` with arguments quoted for the head's shell."""
    from service.cluster import submit as launcher

    try:
        launcher.submit(cluster, sweep, arguments or [], tmux=tmux)
    except ValueError as error:
        fail(error)
