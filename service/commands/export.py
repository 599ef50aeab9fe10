"""`sweeps export`: write a pruned network for other tools."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands._shared import (
    DEFAULT_RUNS,
    AsJson,
    Name,
    Runs,
    one_line_errors,
    print_json,
    stdout_for_json,
    sweep_folder,
)

__all__ = ["export"]


def export(
    name: Name,
    trial: Annotated[str, typer.Option(help="key of a finished trial; default: the sweep's winner")] = "",
    level: Annotated[
        float | None, typer.Option(help="sparsity, in [0, 1); default: the sweep's target sparsity")
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="safetensors: weights for load_pruned and transformers; onnx, torch-export: a graph that takes raw "
            "inputs; repeatable; default: safetensors",
            metavar="NAME",
        ),
    ] = None,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="remove channels that the output does not depend on")
    ] = False,
    multiple_of: Annotated[
        int, typer.Option(help="with --shrink: round widths up to a multiple of this; 8 suits ONNX Runtime", min=1)
    ] = 8,
    tolerance: Annotated[
        float,
        typer.Option(
            help="with --shrink: treat weights of at most this magnitude as 0; above 0 it is not exact", min=0
        ),
    ] = 0.0,
    to: Annotated[Path | None, typer.Option(help="folder to create; default: NAME-LEVEL in the working folder")] = None,
    measure: Annotated[bool, typer.Option(help="measure sizes and latencies, dense, pruned and shrunk")] = True,
    image_size: Annotated[
        int | None, typer.Option(help="height and width of images, for checkpoints of earlier versions", min=1)
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    data_root: Annotated[
        Path | None, typer.Option(help="folder of the dataset, if the network must be pruned again; default: the last")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export a sweep's pruned network to a folder that other tools read. The written files are run and compared."""
    from service.records.state import State

    folder = sweep_folder(runs, name)
    with one_line_errors(), stdout_for_json(as_json):
        state = State.read(folder, evaluations=False)
        key, level = choose(state, trial, level)
        last = state.last_run.get("data_root")
        root = str(data_root or last) if data_root or last else None
        target = to or Path(f"{name}-{level:g}")
        if target.exists():
            raise ValueError(f"to: must be a folder that does not exist yet, got {target}: remove it or choose another")
        options: dict[str, Any] = {
            "formats": form or ["safetensors"],
            "image_size": image_size,
            "num_runs": 200 if measure else 0,
        }
        options |= {"shrink": shrink, "multiple_of": multiple_of, "tolerance": tolerance}
        entry = export_trial(state, key, level, target, root, **options)
    if as_json:
        print_json({"folder": str(target), **entry})
        return
    show(name, key, level, target, entry)


def choose(state: Any, trial: str, level: float | None) -> tuple[str, float]:
    """The trial's key and the sparsity."""
    from service.records.summary import current_summary
    from trainables.pruning_method import check_sparsity
    from trainables.result import Status

    name = state.folder.name
    winner = None if trial else current_summary(state)["winner"]
    if not trial and not winner:
        raise ValueError(f"export: {name} has no winner yet, so give the key of a finished trial with --trial")
    key = winner["checkpoint_trial"] if winner else trial
    if key not in state.trials or state.trials[key].status != Status.FINISHED:
        raise ValueError(f"trial: must be the key of a finished trial of {name} (sweeps best shows some), got {key!r}")
    chosen = state.goal.target_sparsity if level is None else level
    return key, check_sparsity(chosen)


def export_trial(state: Any, key: str, level: float, to: Path, root: str | None, **options: Any) -> dict[str, Any]:
    """Export a trial's network; see `trainables.pruning.exporting.export`."""
    from trainables.config import TrialConfig  # the others import torch
    from trainables.loop import load_task
    from trainables.own_code import sources_of, use_sources
    from trainables.pruning.exporting import export as export_checkpoint
    from trainables.pruning.exporting import find_checkpoint

    folder = state.trial_folder(key)
    dense = folder / "trained"
    config = TrialConfig.model_validate(state.trials[key].config)
    use_sources(sources_of(config), state.folder)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = find_checkpoint(folder, config, level, lambda c: load_task(c, root=root), Path(scratch))
        origin = {"sweep": state.folder.name, "trial": key, "sparsity": level}
        options |= {"dense": dense if dense.is_dir() else None, "origin": origin}
        return export_checkpoint(checkpoint, to, architecture=config.architecture, **options)


def show(name: str, key: str, level: float, to: Path, entry: dict[str, Any]) -> None:
    """Print what was written, and the table of sizes and latencies."""
    from service.views.console import make_console, print_whole
    from service.views.costs import cost_table
    from service.views.tables import for_terminal

    console = make_console()
    if entry.get("costs"):
        print_whole(console, for_terminal(*cost_table(entry["costs"])))
        console.print(f"Medians of up to 200 runs on one thread of {entry['cpu']}.", soft_wrap=True)
    for note in entry["notes"]:
        console.print(note, style="yellow", soft_wrap=True)
    for form, made in entry["formats"].items():
        console.print(
            f"{form}: {to / made['file']}, {made['bytes']:,} bytes, outputs as PyTorch's within "
            f"{made['largest_difference']:.1g}",
            soft_wrap=True,
        )
    raw = entry["input"]
    shape = ", ".join("any" if size is None else str(size) for size in raw["shape"])
    console.print(
        f"{name}, trial {key} pruned to {level:g}: exported to {to} (input {raw['name']}: {raw['dtype']}, {shape})",
        soft_wrap=True,
    )
