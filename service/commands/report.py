"""`sweeps report`: the tables and the report of one or several sweeps."""

from pathlib import Path
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

__all__ = ["report"]


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="sweeps to report on together; by default all of them",
            autocompletion=complete_recorded,
        ),
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="html: one page; markdown, latex: with figures in a folder beside it; text: only print the tables",
        ),
    ] = "html",
    to: Annotated[Path | None, typer.Option(help="file to write; by default in the folder of the sweep")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a sweep's tables, and write its report: what was found, how certain it is, and how it was found."""
    from service.records.state import State, find_sweeps
    from service.records.summary import current_summary
    from service.views.console import make_console, print_whole
    from service.views.tables import as_tables, with_headline

    if not names:
        mention_unreadable(runs)
    folders = [sweep_folder(runs, name) for name in names] if names else find_sweeps(runs)
    if not folders:
        fail(nothing_recorded("report", runs))
    with one_line_errors():
        states = [State.read(folder, evaluations=False) for folder in folders]
        summaries = [current_summary(state) for state in states]
        if not as_json and (form == "text" or len(states) == 1):
            for summary in summaries:
                print_whole(make_console(), as_tables(summary))
        path = None
        if form != "text":
            from service.views.report import FORMATS, make_report, write_report  # imports matplotlib

            if form not in FORMATS:
                raise ValueError(f"format: must be one of {', '.join(FORMATS)}, text, got {form!r}")
            path = to or (folders[0] if len(folders) == 1 else runs) / f"report{FORMATS[form][0]}"
            write_report(make_report(states), form, path)
    if as_json:
        print_json({"report": path and str(path), "sweeps": [with_headline(summary) for summary in summaries]})
    elif path:
        typer.echo(f"Report: {path}")
