"""Running a sweep: check, record, start Ray, train, summarize."""

import contextlib
import functools
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from service.cluster.ray_start import Cluster, Resources, connect  # first: sets what Ray reads when it is imported

# isort: split
from ray import tune
from rich.console import Console

from service.announcements import announce, announce_memory, announce_network, announce_reprune, report
from service.checks import check
from service.cluster.preflight import check_cluster
from service.cluster.tune_adapter import NoReporter, TrialRecorder, TrialSource
from service.cluster.tune_patches import find_internals, patched_tune
from service.export_winner import export_winner
from service.records.bundle import save_code_diff
from service.records.lock import stop_requested
from service.records.recorder import Recorder
from service.records.state import State, TrialRecord, find_sweeps
from service.records.summary import recorded_export, summarize
from service.search.adoption import Adoptable, admit, adopted_points, check_data
from service.search.phases import Phases, points_from_other_sweeps
from service.search.queue import TrialQueue
from service.search.reprune import Reprune
from service.spec import SweepSpec
from service.tracking.connection import default_tracking_uri, warm_up
from service.tracking.shipper import Shipper
from service.views.console import make_console, warn
from service.views.progress import Progress
from sparsity.import_strings import pinned_sources
from trainables.own_code import OwnCode, WithOwnCode, criterion_sources, write_sources
from trainables.pruning_method import PruningMethod
from trainables.trial import Trial

__all__ = ["run_reprune", "run_sweep"]

POLL = 1.0  # seconds between looks for a request to stop
SHIP_TIMEOUT = 60.0  # seconds that the end of a sweep waits for MLflow


def run_sweep(spec: SweepSpec, command: Sequence[str] | None = None, *, quiet: bool = False) -> dict[str, Any]:
    """Run the trials of a sweep that are left; see `service.Sweep.run`."""
    console = make_console(quiet=quiet)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pinned_sources())
        checked = check(spec)
        tracking_uri = spec.tracking_uri or default_tracking_uri(spec.folder.parent)
        records = stack.enter_context(contextlib.closing(Recorder(spec.folder)))
        others = states_to_adopt(spec, records.state)
        for line in admit(spec, checked.arms, records, others, data=checked.fingerprint):
            warn(console, f"{spec.name}: {line}")
        write_sources(own_sources(spec), spec.folder)
        warm_up(tracking_uri)  # while Ray starts

        @functools.cache
        def start_ray() -> tuple[Cluster, Resources]:
            cluster = stack.enter_context(connect(console))
            return cluster, cluster.resources(spec, checked.memory)

        adopts = bool(records.state.num_changes or others)
        if not records.state.search_state:
            _, resources = start_ray()
            records.search_started(
                initial_points=points_from_other_sweeps(spec, checked.arms) if spec.reuse_best else {},
                num_parallel=resources.num_parallel,
                adopted=adopted_points(spec, checked.arms, (records.state, *others)) if adopts else {},
                adopted_from=[state.folder.name for state in others],
            )
        adoptable = Adoptable(spec.folder / "trials", records.state, others) if adopts else None
        phases = Phases(spec, checked.arms, records, adoptable)
        announce(spec, phases, tracking_uri, console)
        announce_network(checked.network, spec.trial.architecture, console)
        shipper = Shipper(spec.folder, tracking_uri, warn=functools.partial(warn, console))
        if not phases.complete():
            cluster, resources = start_ray()
            if not cluster.is_own:
                check_cluster(spec.folder, resources.reserved, tracking_uri, console)
            records.run_started(
                command, num_search=phases.num_search, num_confirm=phases.num_confirm, data_root=spec.data_root
            )
        if records.state.header["software"]["git_commit"].endswith("-dirty"):
            save_code_diff(spec.folder)
        shipper.start()
        stack.enter_context(interrupted_on_request(spec.folder))
        try:
            if not phases.complete():
                announce_memory(checked.memory, resources, console)
                progress = Progress(
                    console,
                    title=spec.name,
                    num_trials=phases.num_search + phases.num_confirm,
                    objective=checked.objective,
                    already_done=phases.num_done,
                    num_parallel=resources.num_parallel,
                )
                run_trials(spec, checked.data, phases, records, resources, progress)
        finally:
            complete = phases.complete()
            export = functools.partial(export_winner, spec.folder, console=console) if spec.export else None
            summary = record_summary(records, phases, objective=checked.objective, complete=complete, export=export)
            num_waiting = shipper.finish(SHIP_TIMEOUT)
    raise_if_interrupted(phases, complete, console)
    report(spec, summary, tracking_uri, num_waiting, console)
    return summary


def record_summary(
    records: Recorder,
    queue: TrialQueue,
    *,
    objective: str,
    complete: bool,
    export: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Record the sweep's summary, with what `export` returns for it. The Shipper sends both together.

    What an earlier export returned for the same network is kept.
    """
    summary = summarize(records.state, objective=objective, complete=complete)
    summary |= recorded_export(records.state, summary)
    if export:
        summary |= export(summary)
    with queue.stopping_on_storage_faults():
        records.summarized(summary)
    return summary


def raise_if_interrupted(queue: TrialQueue, complete: bool, console: Console) -> None:
    """Print why no more trials were started. KeyboardInterrupt if trials are left although nothing prevented them."""
    if queue.stopped_because:
        warn(console, queue.stopped_because, style="red")
    elif not complete:
        raise KeyboardInterrupt


def states_to_adopt(spec: SweepSpec, state: State) -> list[State]:
    """The states of the sweeps that trials are taken from: those of --adopt, and those of an earlier run."""
    there = {folder.name: folder for folder in find_sweeps(spec.folder.parent)}
    for name in spec.adopt:
        if name not in there or name == spec.name:
            others = ", ".join(sorted(there.keys() - {spec.name})) or "(none)"
            raise ValueError(f"adopt: must be another sweep in {spec.folder.parent}, one of {others}, got {name!r}")
    names = dict.fromkeys((*state.search_state.get("adopted_from", ()), *spec.adopt))
    return [State.read(there[name]) for name in names if name in there]


def run_reprune(
    spec: SweepSpec,
    methods: Sequence[PruningMethod],
    sparsities: Sequence[float],
    *,
    select: Callable[[TrialRecord], bool] = lambda trial: True,
    quiet: bool = False,
) -> tuple[dict[str, Any], bool]:
    """Evaluate the finished trials of a recorded sweep by further pruning methods and sparsities.

    Nothing is trained. What is recorded already is not evaluated again.

    Args:
        spec: The recorded sweep (`SweepSpec.from_identity`).
        methods: Pruning methods, beside the one that decides the sweep's objective.
        sparsities: Sparsities, beside those of the sweep.
        select: Which of the finished trials; default: all.
        quiet: Whether to print only warnings and the headline.

    Returns:
        The sweep's summary, and whether everything was recorded. It was not if the records could not be written.

    Raises:
        ValueError: Before anything starts, one line for each fault.
        KeyboardInterrupt: After a clean stop. The next call continues.
    """
    console = make_console(quiet=quiet)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pinned_sources())
        checked = check(spec)
        tracking_uri = spec.tracking_uri or default_tracking_uri(spec.folder.parent)
        records = stack.enter_context(contextlib.closing(Recorder(spec.folder)))
        check_data(records.state, checked.fingerprint)
        write_sources(criterion_sources(methods), spec.folder)
        queue = Reprune(records, methods, sparsities, select)
        announce_reprune(spec, queue, methods, console)
        shipper = Shipper(spec.folder, tracking_uri, warn=functools.partial(warn, console))
        if queue.num_left:
            warm_up(tracking_uri)
            cluster = stack.enter_context(connect(console))
            resources = cluster.resources(spec, checked.memory)
            if not cluster.is_own:
                check_cluster(spec.folder, resources.reserved, tracking_uri, console)
        shipper.start()
        stack.enter_context(interrupted_on_request(spec.folder))
        complete = records.state.complete
        try:
            if queue.num_left:
                progress = Progress(
                    console,
                    title=spec.name,
                    num_trials=queue.num_left,
                    objective=checked.objective,
                    num_parallel=resources.num_parallel,
                )
                run_trials(spec, checked.data, queue, records, resources, progress, train=False)
        finally:
            evaluated = queue.complete
            summary = record_summary(records, queue, objective=checked.objective, complete=complete)
            num_waiting = shipper.finish(SHIP_TIMEOUT)
    raise_if_interrupted(queue, evaluated, console)
    report(spec, summary, tracking_uri, num_waiting, console)
    return summary, not queue.stopped_because


def own_sources(spec: SweepSpec) -> dict[str, str]:
    """The digest of each import string of a sweep."""
    return {**spec.sources(), **criterion_sources(spec.pruning)}


def run_trials(
    spec: SweepSpec,
    data: Any,
    queue: TrialQueue,
    records: Recorder,
    resources: Resources,
    progress: Progress,
    *,
    train: bool = True,
) -> None:
    """Let Tune run the trials of a queue, and record what they report.

    Args:
        train: Whether networks may be trained; else the trials only prune networks that were kept.
    """
    for trial in records.state.finished("search") + records.state.finished("confirm"):
        progress.note_best(trial)
    folder = spec.folder / "trials"
    folder.mkdir(exist_ok=True)
    shared = WithOwnCode(OwnCode(own_sources(spec), spec.folder), data)
    options = {"keep": spec.keep, "sizes": spec.sizes, "train": train}
    trainable = tune.with_parameters(Trial, data=shared, folder=str(folder), **options)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its messages are in the records
    with contextlib.ExitStack() as stack:
        # Tune's own state is pickled and not used: it stays on this host, where no other host can write it.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep-", ignore_cleanup_errors=True))
        stack.enter_context(progress)
        stack.enter_context(patched_tune(lambda: queue.num_left, find_internals()))
        tune.Tuner(
            tune.with_resources(trainable, resources.reserved),
            tune_config=tune.TuneConfig(
                search_alg=TrialSource(queue),
                num_samples=-1,
                max_concurrent_trials=resources.num_parallel,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                progress_reporter=NoReporter(),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials write their own
                callbacks=[TrialRecorder(records, queue, progress)],
            ),
        ).fit()


@contextlib.contextmanager
def interrupted_on_request(folder: Path) -> Iterator[None]:
    """Treat `sweeps stop` and a termination signal (`ray job stop`, a service manager) like Ctrl-C."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL):
            if stop_requested(folder):
                os.kill(os.getpid(), signal.SIGINT)
                return

    main = threading.current_thread() is threading.main_thread()  # only it may set signal handlers
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT)) if main else None
    watcher = threading.Thread(target=watch, name="asked to stop?", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if main:
            signal.signal(signal.SIGTERM, before)
