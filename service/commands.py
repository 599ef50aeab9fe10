"""`python -m sweeps`: the commands on recorded and running sweeps."""

import contextlib
import functools
import json
import os
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

import sparsity_sweeps  # noqa: F401 (its checks of our packages)
from service.command_options import (
    DEFAULT_RUNS,
    Name,
    Runs,
    mention_unreadable,
    nothing_recorded,
    one_line_errors,
    sweep_folder,
)
from service.errors import fail
from service.export_command import export
from service.process import prepare_process

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"sparsity-sweeps {metadata.version('sparsity-sweeps')}")
        except metadata.PackageNotFoundError:
            typer.echo("sparsity-sweeps, not installed")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Look at recorded sweeps. To run a sweep, start its file: python sweeps/digits.py --help"""
    prepare_process()


@app.command("best")
def show_best(
    runs: Runs = DEFAULT_RUNS,
    architecture: Annotated[str | None, typer.Option(help="only this network")] = None,
    dataset: Annotated[str | None, typer.Option(help="only this dataset")] = None,
    optimizer: Annotated[str | None, typer.Option(help="only this optimizer")] = None,
    regularizer: Annotated[str | None, typer.Option(help="only this regularizer")] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="at this sparsity, in [0, 1); by default at the target of each sweep")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="at every sparsity")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs: a list of objects")] = False,
) -> None:
    """Show the best configuration of each arm (an optimizer with a regularizer) at the target sparsity."""
    from service.records.best import best
    from service.records.state import find_sweeps
    from service.views.console import make_console, print_whole
    from service.views.tables import best_table

    mention_unreadable(runs)
    with one_line_errors():
        rows = best(runs, architecture=architecture, dataset=dataset, optimizer=optimizer, regularizer=regularizer)
    if not every:
        rows = [row for row in rows if (row["is_target"] if sparsity is None else row["sparsity"] == sparsity)]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        there = ", ".join(folder.name for folder in find_sweeps(runs)) or "none"
        fail(ValueError(f"best: no finished trial in {runs} matches (sweeps there: {there})"))
    print_whole(make_console(), best_table(rows))


@app.command()
def report(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="sweeps to report on together; by default all of them")
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
) -> None:
    """Print a sweep's tables, and write its report: what was found, how certain it is, and how it was found."""
    from service.records.state import State, find_sweeps
    from service.views.console import make_console, print_whole
    from service.views.tables import as_tables

    if not names:
        mention_unreadable(runs)
    folders = [sweep_folder(runs, name) for name in names] if names else find_sweeps(runs)
    if not folders:
        fail(nothing_recorded("report", runs))
    with one_line_errors():
        states = [State.read(folder, evaluations=False) for folder in folders]
        for state in states:
            if state.summary and (form == "text" or len(states) == 1):
                print_whole(make_console(), as_tables(state.summary))
        if form == "text":
            return
        from service.views.report import FORMATS, make_report, write_report  # imports matplotlib

        if form not in FORMATS:
            raise ValueError(f"format: must be one of {', '.join(FORMATS)}, text, got {form!r}")
        path = to or (folders[0] if len(folders) == 1 else runs) / f"report{FORMATS[form][0]}"
        write_report(make_report(states), form, path)
    typer.echo(f"Report: {path}")


@app.command()
def bundle(
    name: Name,
    runs: Runs = DEFAULT_RUNS,
    to: Annotated[Path | None, typer.Option(help="archive to write; by default NAME-bundle.tar.gz here")] = None,
) -> None:
    """Pack a sweep's records with what is needed to train its trials again elsewhere."""
    from service.records.bundle import bundle as write_bundle
    from service.records.state import State

    folder = sweep_folder(runs, name)
    path = to or Path(f"{name}-bundle.tar.gz")
    with one_line_errors():
        num_files = write_bundle(State.read(folder), path)
    typer.echo(f"{path}: {num_files} files. Unpack it and run ./reproduce.sh CHECKOUT to train a trial again.")


@app.command()
def repeat(
    name: Name,
    trials: Annotated[
        list[str] | None, typer.Argument(metavar="TRIAL...", help="keys of finished trials; by default the winner's")
    ] = None,
    runs: Runs = DEFAULT_RUNS,
    data_root: Annotated[Path | None, typer.Option(help="folder of the dataset; default: that of the last run")] = None,
    cpus: Annotated[int, typer.Option(help="threads; the last bits depend on them", min=1)] = 1,
) -> None:
    """Train trials again, without changing the records, and compare every number with them."""
    from service.records.state import State
    from service.repeat import repeat as train_again

    folder = sweep_folder(runs, name)
    with one_line_errors():
        state = State.read(folder)
        winner = (state.summary or {}).get("winner")
        if not trials and not winner:
            raise ValueError(f"repeat: {name} has no winner yet, so give the key of a trial")
        last = state.last_run.get("data_root")
        root = data_root or (Path(last) if last else None)
        keys = trials or [winner["checkpoint_trial"]]  # type: ignore[index]
        differ = False
        for key, found in train_again(state, keys, data_root=root, num_threads=cpus):
            typer.echo(f"{key}: {len(found)} numbers differ" if found else f"{key}: every number is the same")
            for line in found:
                typer.echo(f"    {line}")
            differ = differ or bool(found)
    raise typer.Exit(1 if differ else 0)


@app.command()
def figures(
    name: Name,
    trials: Annotated[
        list[str], typer.Argument(metavar="TRIAL...", help="keys of finished trials, as best shows them")
    ],
    runs: Runs = DEFAULT_RUNS,
) -> None:
    """Draw trials: the objective against sparsity, and a histogram of each layer's weights."""
    from service.views.figures import draw_trial
    from trainables.files import write_atomically
    from trainables.result import Status, read_result

    folder = sweep_folder(runs, name) / "trials"
    with one_line_errors():
        for key in trials:
            result = read_result(folder / key)
            if result is None or result["report"]["status"] != Status.FINISHED:
                raise ValueError(f"figures: trials must be finished ones of {name}, got {key!r}")
            for file, figure in draw_trial(result).items():
                path = folder / key / file
                write_atomically(path, functools.partial(figure.savefig, format="png", dpi=150))
                typer.echo(path)


@app.command()
def status(
    name: Annotated[str, typer.Argument(help="the sweep's name; all of them by default")] = "",
    runs: Runs = DEFAULT_RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="for programs: a list of objects")] = False,
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
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        fail(nothing_recorded("status", runs))
    for one in found:
        print_whole(make_console(), as_text(one, runs))


@app.command()
def stop(
    name: Name,
    runs: Runs = DEFAULT_RUNS,
    wait: Annotated[float, typer.Option(help="seconds to wait for its end", min=0)] = 120,
) -> None:
    """Stop a running sweep, like Ctrl-C, from any host that sees its folder. Its command continues it."""
    from service.records.lock import lock_holder, request_stop
    from service.records.state import State

    folder = sweep_folder(runs, name)
    process = lock_holder(folder)
    if not process:
        typer.echo(f"{name} is not running.")
        return
    request_stop(folder)
    deadline = time.monotonic() + wait
    while lock_holder(folder) == process and time.monotonic() < deadline:
        time.sleep(0.5)
    if lock_holder(folder) == process:
        fail(ValueError(f"stop: {name} was asked to stop {wait:g} s ago and is still run by {process}"))
    typer.echo(f"{name} has stopped; it was run by {process}. To continue, run the same command again.")
    with one_line_errors():
        last_run = State.read(folder).last_run
    if command := shown_command(last_run):
        typer.echo(command)


@app.command()
def retry(
    name: Name,
    runs: Runs = DEFAULT_RUNS,
    diverged: Annotated[
        bool, typer.Option("--diverged", help="also retry diverged trials; the same code diverges again")
    ] = False,
    start: Annotated[bool, typer.Option(help="continue the sweep at once, with its last command")] = True,
) -> None:
    """Retry the trials that ended in an error, were lost or ran out of memory, and continue the sweep."""
    from service.records.passwords import HIDDEN
    from service.records.recorder import RETRIED, Recorder
    from trainables.result import Status

    folder = sweep_folder(runs, name)
    with (
        one_line_errors(),
        contextlib.closing(Recorder(folder)) as recorder,
    ):
        keys = recorder.retry((*RETRIED, Status.DIVERGED) if diverged else RETRIED)
        last = recorder.state.last_run
    typer.echo(f"{len(keys)} trials of {name} will run again{': ' if keys else ''}{', '.join(keys)}")
    command = last.get("command")
    if not keys or not start:
        return
    if not command or any(HIDDEN in word for word in command):
        typer.echo("Run the sweep's command to start them.")
        return
    typer.echo(shown_command(last))
    sys.stdout.flush()
    os.chdir(last["cwd"])
    os.execv(command[0], command)


@app.command()
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
        bool | None, typer.Option(help="also evaluate with BatchNorm statistics estimated again; default: the sweep's")
    ] = None,
    prunable: Annotated[
        str | None,
        typer.Option(help="prune the weights whose names match this; default: the sweep's", metavar="REGEX"),
    ] = None,
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
) -> None:
    """Prune a sweep's trained networks by other criteria, scopes or sparsities. Run it again after an interruption."""
    from service.cli import parse_arguments
    from service.driver import run_reprune
    from service.records.state import State
    from service.spec import SweepSpec, pruning_methods, recorded_sources
    from trainables.config import check_sparsity
    from trainables.own_code import use_sources

    folder = sweep_folder(runs, name)
    with one_line_errors():
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
        try:
            run_reprune(spec, methods, tuple(sparsity or ()))
        except KeyboardInterrupt:
            typer.echo("Stopped. The same command continues from here.", err=True)
            raise typer.Exit(130) from None


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def inspect(
    context: typer.Context,
    sweep: Annotated[str, typer.Argument(help="a sweep's name, e.g. digits, or its file")] = "",
) -> None:
    """List the weights of a network, and which of them are pruned: sweeps inspect digits --architecture resnet18"""
    from service.cli import make_command
    from service.inspection import find_sweep, inspect_network

    if not sweep or sweep.startswith("-"):
        typer.echo(context.get_help())
        raise typer.Exit(0 if sweep == "--help" else 2)
    with one_line_errors():
        found = find_sweep(sweep)
    command = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    command.command(name=f"inspect {sweep}", help="Options of the sweep.")(make_command(found, inspect_network))
    command(args=context.args, prog_name=f"sweeps inspect {sweep}")


@app.command()
def sync(
    name: Name,
    runs: Runs = DEFAULT_RUNS,
    tracking_uri: Annotated[str, typer.Option(help="MLflow server; the database in --runs by default")] = "",
) -> None:
    """Send MLflow the records of a sweep that it does not have yet."""
    from service.tracking.connection import default_tracking_uri
    from service.tracking.shipper import Shipper

    shipper = Shipper(sweep_folder(runs, name), tracking_uri or default_tracking_uri(runs), warn=lambda text: None)
    shipper.start()
    left = shipper.finish(timeout=3600)
    typer.echo(f"{shipper.num_sent} of {shipper.num_sent + left} entries sent to {shipper.server}")
    if left:
        fail(ValueError(f"sync: {left} entries are not sent: {shipper.failure}"))


@app.command()
def submit(
    cluster: Annotated[Path, typer.Argument(help="cluster file, e.g. cluster.yaml")],
    sweep: Annotated[str, typer.Argument(help="a sweep's name, e.g. cifar10, or its file")],
    arguments: Annotated[list[str] | None, typer.Argument(help="the sweep's own options, after --")] = None,
    tmux: Annotated[bool, typer.Option("--tmux", help="return at once; the sweep runs in tmux on the head")] = False,
) -> None:
    """Run a sweep on a cluster: `ray submit` with arguments quoted for the head's shell."""
    from service.cluster import submit as launcher

    try:
        launcher.submit(cluster, sweep, arguments or [], tmux=tmux)
    except ValueError as error:
        fail(error)


@app.command()
def ui(
    runs: Runs = DEFAULT_RUNS,
    host: Annotated[
        str, typer.Option(help="address to listen on; anyone who can reach it can read and change the records")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65535)] = 5000,
) -> None:
    """Open MLflow's UI on the recorded runs."""
    from service.tracking.connection import default_tracking_uri
    from service.tracking.ui import serve_ui

    if not (runs / "mlflow.db").exists() and not os.environ.get("MLFLOW_TRACKING_URI"):
        fail(nothing_recorded("ui", runs))
    try:
        raise typer.Exit(serve_ui(default_tracking_uri(runs), host, port))
    except (ValueError, OSError) as error:
        fail(error)


def shown_command(last_run: dict) -> str:
    """The command that last ran a sweep, for a shell on the host that it was typed on; empty if none is recorded."""
    command = last_run.get("command")
    return f"cd {shlex.quote(last_run['cwd'])} && {shlex.join(command)}" if command else ""


app.command()(export)


if __name__ == "__main__":
    app()
