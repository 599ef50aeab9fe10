"""`sweeps train`: one network, trained with values that are known to be good, and exported."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands._shared import (
    DEFAULT_RUNS,
    TAKES_OPTIONS_OF_A_SWEEP,
    AsJson,
    Runs,
    complete_file,
    complete_recorded,
    one_line_errors,
    print_json,
    stdout_for_json,
    sweep_folder,
)

__all__ = ["train"]

SETTINGS = TAKES_OPTIONS_OF_A_SWEEP


def train(
    context: typer.Context,
    sweep: Annotated[
        str,
        typer.Argument(help="a sweep's name, e.g. digits, or its file; not with --best", autocompletion=complete_file),
    ] = "",
    best: Annotated[
        str,
        typer.Option(
            help="name of a recorded sweep: train its winner's configuration again",
            metavar="NAME",
            autocompletion=complete_recorded,
        ),
    ] = "",
    seed: Annotated[
        int | None,
        typer.Option(help="seed of the training; default: the sweep's, or with --best one that no trial has used"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="epochs; default: the sweep's", min=1)] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="safetensors, onnx, torch-export; repeatable; default: safetensors", metavar="NAME"
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="folder to create; default: trained-NAME")] = None,
    measure: Annotated[bool, typer.Option(help="measure sizes and latencies, dense, pruned and shrunk")] = True,
    runs: Runs = DEFAULT_RUNS,
    as_json: AsJson = False,
) -> None:
    """Train one network and export it, pruned: sweeps train --best digits, or sweeps train digits --lam 1e-5

    With a sweep's name or file, any further option is the sweep's. Without --lam, lam and rho are those that `sweeps
    recommend` finds.
    """
    if not best and (not sweep or sweep.startswith("-")):
        typer.echo(context.get_help())
        raise typer.Exit(0 if sweep == "--help" else 2)
    options: dict[str, Any] = {
        "as_json": as_json,
        "formats": form or ["safetensors"],
        "num_runs": 200 if measure else 0,
    }
    if best:
        with one_line_errors():
            if sweep or context.args:
                extra = " ".join([sweep, *context.args]).strip()
                raise ValueError(f"best: must be given without a sweep and its options, got {extra} too")
            config, folder, data_root = winner_of(best, runs, seed=seed, max_epochs=epochs)
            train_and_export(config, to or Path(f"trained-{best}"), data_root, folder, **options)
        return
    from service.cli import make_command
    from service.inspection import find_sweep

    with one_line_errors():
        found = find_sweep(sweep)

    def run(spec: Any) -> None:
        with one_line_errors():
            with stdout_for_json(as_json):
                config = config_of(spec)
            root = str(spec.data_root) if spec.data_root else None
            train_and_export(config, to or Path(f"trained-{spec.name}"), root, None, **options)

    command = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    command.command(name=f"train {sweep}", help="Options of the sweep.")(make_command(found, run))
    given = [("--seed", seed), ("--epochs", epochs), ("--runs", runs if runs != DEFAULT_RUNS else None)]
    more = [word for flag, value in given if value is not None for word in (flag, str(value))]
    command(args=[*context.args, *more], prog_name=f"sweeps train {sweep}")


def winner_of(name: str, runs: Path, **given: int | None) -> tuple[Any, Path, str | None]:
    """The configuration of a sweep's winner with an unused seed, the sweep's folder, and the folder of its dataset.

    It is pruned as the sweep is pruned now, which may have been changed since the trial.

    Args:
        given: Fields of the configuration that replace the winner's, unless they are None.
    """
    from service.records.state import State
    from service.records.summary import current_summary
    from trainables.config import TrialConfig
    from trainables.pruning_method import PruningMethod

    state = State.read(sweep_folder(runs, name), evaluations=False)
    winner = current_summary(state)["winner"]
    if not winner:
        raise ValueError(f"best: must be a sweep with a winner, and {name} has none yet")
    recorded = state.trials[winner["checkpoint_trial"]].config
    first, *more = [PruningMethod(**method) for method in state.identity["pruning"]]
    pruned = {name: state.identity["trial"][name] for name in ("target_sparsity", "sparsities")} | dict(first)
    unused = {"seed": 1 + max(trial.config["seed"] for trial in state.trials.values())}
    changes = unused | {field: value for field, value in given.items() if value is not None}
    config = TrialConfig.model_validate({**recorded, **pruned, "more_pruning": more, "read_test": False, **changes})
    return config, state.folder, state.last_run.get("data_root")


def config_of(spec: Any) -> Any:
    """The configuration of a sweep with one arm.

    What would be searched has the value of the nearest known setting, else the initial value of the search space.

    Raises:
        ValueError: If the sweep has several arms, or a parameter has neither value.
    """
    from service.search.phases import points_from_other_sweeps
    from service.search.space import make_arms, make_config

    arms = make_arms(spec)
    if len(arms) != 1:
        names = ", ".join(arm.name for arm in arms)
        raise ValueError(f"train: must have one arm (give --optimizer and --regularizer), got {names}")
    arm = arms[0]
    known = points_from_other_sweeps(spec, arms).get(arm.name, [{}])[0]
    start = {**arm.initial_point, **known}
    if missing := [name for name in arm.space if name not in start]:
        raise ValueError(
            f"train: {' and '.join(missing)} must be given as options (no known setting has a value, and the search "
            "space has no initial one)"
        )
    values = {name: start[name] for name in arm.space}
    if values:
        shown = ", ".join(f"{name.removeprefix('opt/')} {value:.3g}" for name, value in values.items())
        where = "from the nearest known setting" if known else "the initial values of the search space"
        typer.echo(f"{arm.name}: {shown} ({where})")
    return make_config(spec, arm.choices, values)


def train_and_export(
    config: Any, to: Path, data_root: str | None, sources: Path | None, *, as_json: bool, **options: Any
) -> None:
    """Train a configuration, prune it to its target sparsity and export that network.

    Args:
        sources: The folder of the sweep whose copies of one's own code are used.
    """
    if to.exists():
        raise ValueError(f"to: must be a folder that does not exist yet, got {to}: remove it or choose another")
    from service.commands.export import show
    from trainables.loop import load_task
    from trainables.own_code import sources_of, use_sources
    from trainables.pruning.exporting import export as export_checkpoint
    from trainables.pruning.exporting import format_names
    from trainables.runner import TrialRunner

    for form in options["formats"]:
        if form not in format_names():
            raise ValueError(f"format: must be one of {', '.join(format_names())}, got {form!r}")
    if sources is not None:
        use_sources(sources_of(config), sources)
    level = config.target_sparsity
    with stdout_for_json(as_json), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        runner = TrialRunner(config, folder, lambda: load_task(config, root=data_root), keep="target")
        report = runner.advance()
        while report["status"] == "running":
            typer.echo(f"epoch {report['epoch']} of {config.max_epochs}: loss {report['loss']:.3f}")
            report = runner.advance()
        if report["status"] != "finished":
            raise ValueError(f"train: the training must finish, it {report['status']} ({report['reason']})")
        ends = ("_dense", "_pruned")
        accuracies = {name: value for name, value in report.items() if name.endswith(ends)}
        dense, pruned = accuracies.values()
        typer.echo(f"validation: {dense:.4f} dense, {pruned:.4f} at sparsity {level:g}")
        origin = {"trial": config.key, "sparsity": level}
        options |= {"architecture": config.architecture, "dense": folder / "trained", "origin": origin}
        entry = export_checkpoint(folder / "pruned" / f"{level:g}", to, **options)
    if as_json:
        print_json({"folder": str(to), "config": config.model_dump(mode="json"), "validation": accuracies, **entry})
    else:
        show(to.name, config.key, level, to, entry)
