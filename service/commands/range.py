"""`sweeps range`: the values of lam that matter for a network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands._shared import (
    TAKES_OPTIONS_OF_A_SWEEP,
    AsJson,
    complete_file,
    one_line_errors,
    print_json,
    stdout_for_json,
)

__all__ = ["find"]

SETTINGS = TAKES_OPTIONS_OF_A_SWEEP


def find(
    context: typer.Context,
    sweep: Annotated[
        str, typer.Argument(help="a sweep's name, e.g. digits, or its file", autocompletion=complete_file)
    ] = "",
    lams: Annotated[str, typer.Option(help="smallest and largest lam", metavar="LOW:HIGH")] = "1e-8:10",
    per_decade: Annotated[int, typer.Option(help="trainings for each factor of 10 in lam", min=1)] = 1,
    short_epochs: Annotated[int, typer.Option(help="epochs of each training", min=1)] = 2,
    to: Annotated[
        Path | None, typer.Option(help="file to write, with a figure of the same name; default: range-REGULARIZER.json")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the range of lam for a network: sweeps range digits --regularizer wcr --architecture my_nets.py:build

    Short trainings show where the penalty starts to move weights, and where it starts to hurt. Any further option is
    the sweep's, and a sweep takes the range by --range-from FILE.
    """
    from service.cli import make_command
    from service.inspection import find_sweep

    if not sweep or sweep.startswith("-"):
        typer.echo(context.get_help())
        raise typer.Exit(0 if sweep == "--help" else 2)
    with one_line_errors():
        low, high = limits(lams)
        found = find_sweep(sweep)

    def run(spec: Any) -> None:
        with one_line_errors():
            measure_range(spec, steps(low, high, per_decade), short_epochs, to, as_json)

    command = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    command.command(name=f"range {sweep}", help="Options of the sweep.")(make_command(found, run))
    command(args=context.args, prog_name=f"sweeps range {sweep}")


def limits(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low = high = 0.0
    if not 0 < low < high < float("inf"):
        raise ValueError(f"lams: must be LOW:HIGH with 0 < LOW < HIGH, got {text!r}")
    return low, high


def steps(low: float, high: float, per_decade: int) -> list[float]:
    """Values from low to high in equal factors, `per_decade` in each decade or a little closer."""
    import math

    num = max(1, math.ceil(per_decade * math.log10(high / low) - 1e-9))
    return [float(f"{low * (high / low) ** (k / num):.6g}") for k in range(num + 1)]


def measure_range(spec: Any, lams: list[float], epochs: int, to: Path | None, as_json: bool) -> None:
    from service.range_finder import draw, find_range, measure, write_range
    from service.search.space import is_baseline, make_arms, make_config
    from trainables.loop import load_task

    arms = [arm for arm in make_arms(spec) if not is_baseline(spec, arm.choices)]
    configs = [make_config(spec, arm.choices, {**arm.initial_point, "lam": lams[0]}) for arm in arms]
    names = list(dict.fromkeys(config.regularizer for config in configs))
    if len(names) != 1:
        raise ValueError(f"regularizer: must be a single one (give --regularizer), got {', '.join(names) or 'none'}")
    config = configs[0].model_copy(update={"max_epochs": epochs, "patience": None})
    path = to or Path(f"range-{names[0].rpartition(':')[2]}.json")
    if not path.parent.is_dir():
        raise ValueError(f"to: must be in a folder that exists, got {path}")
    with stdout_for_json(as_json):
        task = load_task(config, root=str(spec.data_root) if spec.data_root else None)
        found = find_range(config, *measure(task, config, lams, say=typer.echo))
    write_range(found, path)
    draw(found).savefig(path.with_suffix(".png"), dpi=110)
    if as_json:
        print_json({"file": str(path), **found.model_dump()})
        return
    for note in found.notes:
        typer.echo(f"note: {note}")
    low, high = ("", "") if found.notes else (" (starts to move weights)", " (largest that does not hurt)")
    typer.echo(f"lam from {found.low:.2g}{low} to {found.high:.2g}{high}")
    typer.echo(f"written: {path}, {path.with_suffix('.png')}; a sweep takes it with --range-from {path}")
