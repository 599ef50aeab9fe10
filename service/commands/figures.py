"""`sweeps figures`: figures of single trials."""

import functools
from typing import Annotated

import typer

from service.commands._shared import DEFAULT_RUNS, AsJson, Name, Runs, one_line_errors, print_json, sweep_folder

__all__ = ["figures"]


def figures(
    name: Name,
    trials: Annotated[
        list[str], typer.Argument(metavar="TRIAL...", help="keys of finished trials, as best shows them")
    ],
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Draw trials: the objective against sparsity, and a histogram of each layer's weights."""
    from service.views.figures import draw_trial
    from trainables.files import write_atomically
    from trainables.result import Status, read_result

    folder = sweep_folder(runs, name) / "trials"
    with one_line_errors():
        drawn = []
        for key in trials:
            result = read_result(folder / key)
            if result is None or result["report"]["status"] != Status.FINISHED:
                raise ValueError(f"figures: trials must be finished ones of {name}, got {key!r}")
            paths = {folder / key / file: figure for file, figure in draw_trial(result).items()}
            for path, figure in paths.items():
                write_atomically(path, functools.partial(figure.savefig, format="png", dpi=150))
                if not as_json:
                    typer.echo(path)
            drawn.append({"trial": key, "files": [str(path) for path in paths]})
    if as_json:
        print_json(drawn)
