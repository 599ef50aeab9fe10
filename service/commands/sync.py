"""`sweeps sync`: send MLflow what it does not have yet."""

from typing import Annotated

import typer

from service.commands._shared import DEFAULT_RUNS, AsJson, Name, Runs, one_line_errors, print_json, sweep_folder
from service.errors import fail

__all__ = ["sync"]


def sync(
    name: Name,
    runs: Runs = DEFAULT_RUNS,
    tracking_uri: Annotated[str, typer.Option(help="MLflow server; the database in --runs by default")] = "",
    as_json: AsJson = False,
) -> None:
    """Send MLflow the records of a sweep that it does not have yet."""
    from service.tracking.connection import default_tracking_uri
    from service.tracking.shipper import Shipper

    shipper = Shipper(sweep_folder(runs, name), tracking_uri or default_tracking_uri(runs), warn=lambda text: None)
    shipper.start()
    with one_line_errors():
        left = shipper.finish(timeout=3600)
    if as_json:
        print_json({"sweep": name, "server": shipper.server, "sent": shipper.num_sent, "left": left})
    else:
        typer.echo(f"{shipper.num_sent} of {shipper.num_sent + left} entries sent to {shipper.server}")
    if left:
        fail(ValueError(f"sync: {left} entries are not sent: {shipper.failure}"))
