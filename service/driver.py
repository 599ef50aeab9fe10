"""Running a sweep: checks, records, Ray, proposals, the confirmation on unseen seeds, the summary."""

import contextlib
import logging
import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

# Ray reads these when it is imported. Our records replace Tune's loggers; nobody's use is reported anywhere.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# On a busy machine Ray's processes need longer to start than Ray waits for them (30 s).
os.environ.setdefault("RAY_agent_register_timeout_ms", "180000")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")

import ray
from ray import tune
from rich.console import Console

from service.cluster.preflight import check_cluster
from service.cluster.start import (
    error_of,
    is_own_ray,
    local_or_joined_ray,
    mended_tune,
    stopped_without_workers,
    trial_resources,
    within_memory,
)
from service.process import sweeps_command
from service.records.state import Records, without_password
from service.search.phases import STORAGE_HINT, Phases, known_elsewhere
from service.search.proposals import TuneSearcher
from service.spec import FAILURES_IN_A_ROW, Sweep
from service.tracking.shipper import Shipper, default_tracking_uri, warm_up
from service.views.progress import Progress
from service.views.tables import as_tables, make_console, print_whole, summarize
from trainables.config import TrialConfig
from trainables.runner import read_result, write_atomically

__all__ = ["run_sweep"]

MOST_ATTEMPTS = 3  # at a trial whose worker dies before its next checkpoint
POLL = 1.0  # seconds between looks for a request to stop
SHIP_TIMEOUT = 60.0  # seconds that the end of a sweep waits for MLflow


def run_sweep(sweep: Sweep, command: Sequence[str] | None = None) -> dict[str, Any]:
    """See `Sweep.run`. command: what was typed, for who looks at the records and for `retry`."""
    console = make_console()
    arms, data, memory = sweep.check()
    objective = task_objective(sweep)
    tracking_uri = sweep.tracking_uri or default_tracking_uri(sweep.folder.parent)
    with contextlib.ExitStack() as stack:
        records = stack.enter_context(contextlib.closing(Records(sweep.folder, sweep.identity())))
        warm_up(tracking_uri)
        if not records.plan:
            stack.enter_context(local_or_joined_ray(console))
            first = known_elsewhere(sweep) if sweep.reuse_best else {}
            records.start_plan(first=first, num_parallel=within_memory(*trial_resources(sweep), memory)[1])
        phases = Phases(sweep, arms, records, objective)
        shipper = Shipper(sweep.folder, tracking_uri, warn=lambda text: console.print(text, style="yellow"))
        announce(sweep, phases, records, tracking_uri, console)
        if not phases.complete():
            if not ray.is_initialized():
                stack.enter_context(local_or_joined_ray(console))
            if not is_own_ray():
                check_cluster(sweep.folder, trial_resources(sweep)[0], tracking_uri, console)
            records.note_run(command, num_search=phases.num_search, num_confirm=phases.num_confirm)
        shipper.start()
        stack.enter_context(interrupted_on_request(records))
        try:
            if not phases.complete():
                run_trials(sweep, phases, records, data, memory, console, objective)
        finally:
            complete = phases.complete()
            summary = summarize(records, objective=objective, target_sparsity=sweep.target_sparsity, complete=complete)
            with phases.stopping_on_storage_faults():
                records.summarize(summary)
            num_waiting = shipper.finish(SHIP_TIMEOUT)
    if phases.stopped_because:
        console.print(phases.stopped_because, style="red", soft_wrap=True)
    elif not complete:
        raise KeyboardInterrupt
    report(sweep, summary, tracking_uri, num_waiting, console)
    return summary


@contextlib.contextmanager
def interrupted_on_request(records: Records) -> Iterator[None]:
    """`python -m sweeps stop` and a termination signal (`ray job stop`, a service manager) end it as Ctrl-C does."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL):
            if records.asked_to_stop:
                os.kill(os.getpid(), signal.SIGINT)
                return

    main = threading.current_thread() is threading.main_thread()  # signals are for it alone
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


def announce(sweep: Sweep, phases: Phases, records: Records, tracking_uri: str, console: Console) -> None:
    done = sum(trial.done for trial in records.trials.values())
    console.print(
        f"{sweep.name}: {sweep.architecture} on {sweep.dataset}, {sweep.max_epochs} epochs a trial; "
        f"{phases.num_search} trials to search {len(phases.arms)} combinations "
        f"({configurations(phases)}{seeds_each(sweep)}), then up to {phases.num_confirm} on unseen seeds"
        + (f"; {done} are done already" if done else ""),
        soft_wrap=True,
    )
    console.print(f"combinations: {', '.join(arm.name for arm in phases.arms)}", soft_wrap=True)
    console.print(f"records: {sweep.folder}    MLflow: {without_password(tracking_uri)}", soft_wrap=True)
    fixed = [arm.name for arm in phases.arms if not arm.space]
    if fixed and sweep.num_trials > 1:
        console.print(f"nothing to search, so one configuration: {', '.join(fixed)}", style="yellow", soft_wrap=True)


def configurations(phases: Phases) -> str:
    num = max(number for _, number in phases.search.slots) + 1
    return f"{num} configuration{'s' * (num > 1)} each"


def seeds_each(sweep: Sweep) -> str:
    return f" on {sweep.num_search_seeds} seeds" if sweep.num_search_seeds > 1 else ""


def announce_memory(
    memory: int, resources: dict[str, float], num_fitting: int, num_parallel: int, console: Console
) -> None:
    """What a trial takes; in yellow, and what to do, if that lets fewer run or is more than there is."""
    text = f"memory: about {memory / 1e9:.1f} GB a trial, {num_parallel} at once"
    less = "for less, --accumulate 4 or a smaller --batch-size"
    if resources.get("memory", memory) < memory:
        console.print(f"{text}; this machine has {resources['memory'] / 1e9:.1f} GB: {less}", style="yellow")
    elif num_parallel < num_fitting:
        console.print(f"{text} instead of {num_fitting}, as there is no more memory; {less}", style="yellow")
    else:
        console.print(text)


def report(sweep: Sweep, summary: dict, tracking_uri: str, num_waiting: int, console: Console) -> None:
    console.print()
    print_whole(console, as_tables(summary))
    figure = sweep.folder / "curve.png"
    if summary["winner"] and summary["complete"]:
        from service.views.figures import draw_summary

        write_atomically(figure, lambda path: draw_summary(summary).savefig(path, format="png", dpi=150))
        console.print(f"Accuracy against sparsity: {figure}", soft_wrap=True)
    if num_waiting:
        command = sweeps_command("sync", sweep.name, runs=sweep.runs)
        console.print(
            f"MLflow has not got {num_waiting} of the journal's entries: {command}", style="yellow", soft_wrap=True
        )
    local = tracking_uri.startswith("sqlite:")
    browse = sweeps_command("ui", runs=sweep.runs) if local else without_password(tracking_uri)
    console.print(
        f"Browse the runs: {browse}        best lam and rho: {sweeps_command('best', runs=sweep.runs)}",
        soft_wrap=True,
        markup=False,
    )


def task_objective(sweep: Sweep) -> str:
    import sparsity

    return sparsity.find("trainables.tasks", sweep.task).objective


def run_trials(
    sweep: Sweep,
    phases: Phases,
    records: Records,
    data: Any,
    memory: int | None,
    console: Console,
    objective: str,
) -> None:
    from trainables.trial import Trial

    resources, num_fitting = trial_resources(sweep)
    resources, num_parallel = within_memory(resources, num_fitting, memory)
    if memory and "gpu" not in resources:
        announce_memory(memory, resources, num_fitting, num_parallel, console)
    searcher = TuneSearcher(phases, metric=f"{objective}_pruned")
    already = sum(records.trials[key].done for key in records.trials)
    progress = Progress(
        console,
        title=sweep.name,
        num_trials=phases.num_search + phases.num_confirm,
        objective=objective,
        already_done=already,
    )
    for trial in records.finished("search") + records.finished("confirm"):
        progress.note_best(trial.report[f"{objective}_pruned"])
    watch = Watch(records, phases, progress)
    (sweep.folder / "trials").mkdir(exist_ok=True)
    trainable = tune.with_parameters(Trial, data=data, folder=str(sweep.folder / "trials"), keep=sweep.keep)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it would say is in the records
    with contextlib.ExitStack() as stack:
        # Tune's own state is pickled, and of use to nobody: it stays on this host, where no other can write it.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep-", ignore_cleanup_errors=True))
        stack.enter_context(progress)
        stack.enter_context(mended_tune(lambda: phases.num_to_come))
        stack.enter_context(stopped_without_workers(phases.stop))
        tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, max_concurrent_trials=num_parallel, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials keep their own
                callbacks=[watch],
            ),
        ).fit()


class Watch(tune.Callback):
    """Writes what Tune reports into the records and onto the screen. Pickles to nothing: Tune's snapshot needs none.

    A trial whose worker died is made again, from its checkpoint, unless it has died MOST_ATTEMPTS times on the way to
    the next one; the death of a host does not count. Tune's own retries would count all alike, over the whole trial.
    """

    def __init__(self, records: Records, phases: Phases, progress: Progress):
        self.records, self.phases, self.progress = records, phases, progress
        self.attempts: Counter[str] = Counter()  # since the last evaluation
        self.failures_in_a_row = 0

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        key = result["key"]
        self.attempts[key] = 0
        names = {name for name in result if name.split("_")[-1] in ("dense", "pruned")}
        names |= {"epoch", "loss", "penalty", "lr", "seconds", "status", "reason", "weights_left"} & set(result)
        report = {name: result[name] for name in result if name in names}
        with self.phases.stopping_on_storage_faults():
            if report["status"] == "running":
                self.records.evaluation(key, {k: v for k, v in report.items() if k not in ("status", "reason")})
            else:
                self.records.end(key)
                report = self.records.trials[key].report
            self._show(key, report)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        key = TrialConfig.model_validate(trial.config).key
        error = error_of(trial)
        reason = error.splitlines()[-1].rpartition("Worker exit detail: ")[2].strip()[:500]
        if "StorageError: " in reason:
            self.phases.stop(f"{reason.partition('StorageError: ')[2]}. {STORAGE_HINT}")
            return
        self.attempts[key] += "node has died" not in error
        if self.attempts[key] < MOST_ATTEMPTS and not read_result(self.records.trial_folder(key)):
            self.progress.say(
                f"{self.phases.label(key)}: its worker died, it goes on from its last checkpoint ({reason})"
            )
            self.phases.again(key)
            return
        with self.phases.stopping_on_storage_faults():
            self.records.end(key, lost=reason)
            self._show(key, self.records.trials[key].report)

    def _show(self, key: str, report: dict) -> None:
        from trainables.loop import num_epochs

        config = TrialConfig.model_validate(self.records.trials[key].config)
        self.progress.update(key, self.phases.label(key), report, num_epochs(config))
        if report["status"] in ("error", "lost") and not report.get("epoch"):
            self.failures_in_a_row += 1
            if self.failures_in_a_row == FAILURES_IN_A_ROW:
                self.phases.stop(
                    f"{FAILURES_IN_A_ROW} trials in a row failed before their first epoch, so no more are started. "
                    f"The last one: {report['reason']}"
                )
        elif report["status"] == "finished":
            self.failures_in_a_row = 0

    def __getstate__(self) -> dict:
        return {}
