"""`sweeps status`: what runs, what has ended, what failed and why."""

from typing import Annotated

import typer

from service.commands._shared import (
    DEFAULT_RUNS,
    AsJson,
    Runs,
    complete_recorded,
    mention_unreadable,
    nothing_recorded,
    one_line_errors,
    print_json,
    sweep_folder,
)
from service.errors import fail

__all__ = ["status"]


def status(
    name: Annotated[
        str, typer.Argument(help="the sweep's name; all of them by default", autocompletion=complete_recorded)
    ] = "",
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Show whether a sweep runs, its trials by status, the best so far, and what failed and why."""
    from service.records.state import find_sweeps
    from service.views.console import make_console, print_whole
    from service.views.status import as_text, status_of

    if not name:
        mention_unreadable(runs)
    folders = [sweep_folder(runs, name)] if name else find_sweeps(runs)
    with one_line_errors():
        found = [status_of(folder) for folder in folders]
    if as_json:
        print_json(found)
        return
    if not found:
        fail(nothing_recorded("status", runs))
    for one in found:
        print_whole(make_console(), as_text(one, runs))
