"""`sweeps reprune`: prune trained networks in other ways."""

from pathlib import Path
from typing import Annotated

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

__all__ = ["reprune"]


def reprune(
    name: Name,
    criterion: Annotated[list[str] | None, typer.Option(help="what ranks weights for pruning; repeatable")] = None,
    scope: Annotated[
        list[str] | None, typer.Option(help="weights ranked together: global, uniform, or N:M like 2:4; repeatable")
    ] = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option(help="fraction of weights removed, in addition to the sweep's sparsities; repeatable"),
    ] = None,
    crit: Annotated[
        list[str] | None,
        typer.Option(help="argument of a criterion, e.g. num_batches=4; repeatable", metavar="KEY=VALUE"),
    ] = None,
    min_kept: Annotated[
        int | None, typer.Option(help="smallest number of weights kept in each tensor; default: the sweep's", min=0)
    ] = None,
    recalibrate: Annotated[
        bool | None, typer.Option(help="estimate BatchNorm's statistics again after pruning; default: the sweep's")
    ] = None,
    prunable: Annotated[
        str | None,
        typer.Option(help="prune the weights whose names match this; default: the sweep's", metavar="REGEX"),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help='only the networks of this arm, e.g. "sam + wcr"; repeatable', metavar="ARM"),
    ] = None,
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="only the networks of the confirmation, on unseen seeds")
    ] = False,
    runs: Runs = DEFAULT_RUNS,
    data_root: Annotated[
        Path | None, typer.Option(help="folder of the dataset; by default the one of the sweep's last run")
    ] = None,
    cpus: Annotated[float, typer.Option(help="CPUs, and threads, of a trial")] = 1,
    gpus: Annotated[float | None, typer.Option(help="GPUs of a trial; by default 1 if there are any")] = None,
    max_concurrent: Annotated[int | None, typer.Option("--concurrent", help="trials that run at once")] = None,
    keep: Annotated[
        str, typer.Option(help="all: write every newly pruned network; target: none of them", metavar="target|all")
    ] = "target",
    tracking_uri: Annotated[str, typer.Option(help="MLflow server; the database in --runs by default")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="print only warnings, errors and the final headline")] = False,
    as_json: AsJson = False,
) -> None:
    """Prune a sweep's trained networks by other criteria, scopes or sparsities. Run it again after an interruption."""
    from service.driver import run_reprune
    from service.pruning_methods import pruning_methods
    from service.records.state import State, TrialRecord
    from service.spec import SweepSpec, recorded_sources
    from service.views.tables import with_headline
    from trainables.arguments import parse_arguments
    from trainables.own_code import use_sources
    from trainables.pruning_method import check_sparsity

    folder = sweep_folder(runs, name)
    with one_line_errors(), stdout_for_json(as_json):
        state = State.read(folder)
        if data_root is None and state.last_run.get("data_root"):
            data_root = Path(state.last_run["data_root"])
        places = {"name": name, "runs": runs, "data_root": data_root, "keep": keep, "tracking_uri": tracking_uri}
        resources = {"cpus_per_trial": cpus, "gpus_per_trial": gpus, "max_concurrent": max_concurrent}
        use_sources(recorded_sources(state.identity), folder)
        spec = SweepSpec.from_identity(state.identity, **places, **resources)
        decisive = spec.pruning[0]
        for level in sparsity or ():
            check_sparsity(level)
        methods = pruning_methods(
            criterion or [decisive.criterion],
            scope or [decisive.scope],
            arguments=parse_arguments("crit", crit) if crit else (decisive.crit if not criterion else {}),
            min_kept=decisive.min_kept if min_kept is None else min_kept,
            recalibrate=decisive.recalibrate if recalibrate is None else recalibrate,
            prunable=decisive.prunable if prunable is None else prunable,
        )
        arms = sorted({trial.arm for trial in state.trials.values()})
        for given in arm or ():
            if given not in arms:
                raise ValueError(f"arm: must be one of {', '.join(arms) or '(none)'}, got {given!r}")

        def select(trial: TrialRecord) -> bool:
            return (not arm or trial.arm in arm) and (not confirmed or trial.phase == "confirm")

        try:
            summary, recorded = run_reprune(spec, methods, tuple(sparsity or ()), select=select, quiet=quiet)
        except KeyboardInterrupt:
            typer.echo("Stopped. The same command continues from here.", err=True)
            raise typer.Exit(130) from None
    if as_json:
        print_json(with_headline(summary))
    raise typer.Exit(0 if recorded else 1)
