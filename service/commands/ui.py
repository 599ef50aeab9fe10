"""`sweeps ui`: MLflow's pages on the recorded runs."""

import os
from typing import Annotated

import typer

from service.commands._shared import DEFAULT_RUNS, Runs, nothing_recorded
from service.errors import fail

__all__ = ["ui"]


def ui(
    runs: Runs = DEFAULT_RUNS,
    host: Annotated[
        str, typer.Option(help="address to listen on; anyone who can reach it can read and change the records")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65535)] = 5000,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="print the addresses as one line of JSON, and nothing else on standard output"),
    ] = False,
) -> None:
    """Open MLflow's UI on the recorded runs."""
    from service.tracking.connection import default_tracking_uri
    from service.tracking.ui import serve_ui

    if not (runs / "mlflow.db").exists() and not os.environ.get("MLFLOW_TRACKING_URI"):
        fail(nothing_recorded("ui", runs))
    try:
        raise typer.Exit(serve_ui(default_tracking_uri(runs), host, port, as_json=as_json))
    except (ValueError, OSError) as error:
        fail(error)
