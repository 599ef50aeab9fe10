"""Running a sweep: checks, records, Ray, proposals, the confirmation on unseen seeds, the summary."""

import contextlib
import functools
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Ray reads these when it is imported. Our records replace Tune's loggers; nobody's use is reported anywhere.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from rich.console import Console

from sweeps._preflight import check_cluster, may_come, wait_for_hosts
from sweeps._progress import Progress
from sweeps._records import Records, best, without_password
from sweeps._report import as_tables, make_console, print_whole, summarize
from sweeps._searcher import FINISHED, Arm, FixedTrials, Proposal, Search, TuneSearcher, open_storage
from sweeps._sweep import FAILURES_IN_A_ROW, Sweep, default_runs
from sweeps._tracking import Shipper, default_tracking_uri
from trainables.config import TrialConfig
from trainables.resumable import read_result, write_atomically

__all__ = ["run_sweep"]

MOST_ATTEMPTS = 3  # at a trial whose worker dies before its next checkpoint
POLL = 1.0  # seconds between looks for a request to stop
STORAGE_HINT = "No more trials are started. Make room, or the folder writable, and run the same command again."
SHIP_TIMEOUT = 60.0  # seconds that the end of a sweep waits for MLflow


def run_sweep(sweep: Sweep, command: Sequence[str] | None = None) -> dict[str, Any]:
    """See `Sweep.run`. command: what was typed, for who looks at the records and for `retry`."""
    console = make_console()
    arms, data = sweep.check()
    objective = task_objective(sweep)
    tracking_uri = sweep.tracking_uri or default_tracking_uri(sweep.folder.parent)
    with contextlib.ExitStack() as stack:
        records = stack.enter_context(contextlib.closing(Records(sweep.folder, sweep.identity())))
        if not records.plan:
            stack.enter_context(local_or_joined_ray(console))
            first = known_elsewhere(sweep) if sweep.reuse_best else {}
            records.start_plan(first=first, num_parallel=trial_resources(sweep)[1])
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
                run_trials(sweep, phases, records, data, console, objective)
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


def announce(sweep: Sweep, phases: "Phases", records: Records, tracking_uri: str, console: Console) -> None:
    done = sum(trial.done for trial in records.trials.values())
    console.print(
        f"{sweep.name}: {sweep.architecture} on {sweep.dataset}, {sweep.max_epochs} epochs a trial; "
        f"{phases.num_search} trials over {len(phases.arms)} arms, then {phases.num_confirm} on unseen seeds"
        + (f"; {done} are done already" if done else ""),
        soft_wrap=True,
    )
    console.print(f"arms: {', '.join(arm.name for arm in phases.arms)}", soft_wrap=True)
    console.print(f"records: {sweep.folder}    MLflow: {without_password(tracking_uri)}", soft_wrap=True)
    if phases.num_search < sweep.num_trials:
        console.print(
            f"{sweep.num_trials} trials were asked for, but nothing is left to search in any arm: one trial each",
            style="yellow",
        )


def report(sweep: Sweep, summary: dict, tracking_uri: str, num_waiting: int, console: Console) -> None:
    console.print()
    print_whole(console, as_tables(summary))
    figure = sweep.folder / "curve.png"
    if summary["winner"] and summary["complete"]:
        from sweeps._figures import draw_summary

        write_atomically(figure, lambda path: draw_summary(summary).savefig(path, format="png", dpi=150))
        console.print(f"Accuracy against sparsity: {figure}", soft_wrap=True)
    runs = "" if sweep.runs == default_runs() else f" --runs {sweep.runs}"
    python = this_python()
    if num_waiting:
        console.print(
            f"MLflow has not got {num_waiting} of the journal's entries: {python} -m sweeps sync {sweep.name}{runs}",
            style="yellow",
        )
    if tracking_uri.startswith("sqlite:"):
        console.print(
            f"Browse the runs: {python} -m sweeps ui{runs}        best lam and rho: {python} -m sweeps best{runs}",
            soft_wrap=True,
        )
    else:
        console.print(
            f"Browse the runs: {without_password(tracking_uri)}        best lam and rho: {python} -m sweeps best{runs}",
            soft_wrap=True,
        )


def this_python() -> str:
    """How a user who has not activated the environment calls the Python that runs this."""
    if shutil.which("python") == sys.executable:
        return "python"
    here = Path(sys.executable)
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def task_objective(sweep: Sweep) -> str:
    import sparsity

    return sparsity.find("trainables.tasks", sweep.task).objective


# ---- Ray -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def local_or_joined_ray(console: Console) -> Iterator[None]:
    """The cluster this process runs on (`ray start`, RAY_ADDRESS), or one of its own on this machine."""
    try:
        with console.status("Starting Ray ..."):
            ray.init(
                include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True
            )
    except Exception as error:  # whatever it is, Ray says it in a dozen lines
        address = os.environ.get("RAY_ADDRESS")
        where = f"the cluster at RAY_ADDRESS={address} must be reached" if address else "must start on this machine"
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"ray: {where}, it did not ({type(error).__name__}: {said}); try again") from error
    if not is_own_ray():
        wait_for_hosts(console)
    try:
        yield
    finally:
        ray.shutdown()


def is_own_ray() -> bool:
    """Whether this process started the Ray it uses."""
    node = ray._private.worker.global_worker.node
    return node is not None and node.is_head()


def capacity(resource: str) -> float:
    """How much of it there is, or, on the head of a cluster that Ray's launcher started, how much may come."""
    now = ray.cluster_resources().get(resource, 0)
    return now if is_own_ray() else max(now, may_come(resource))


def trial_resources(sweep: Sweep) -> tuple[dict[str, float], int]:
    """What a trial reserves, and how many fit at once. ValueError if not even one does."""
    cpus, gpus = capacity("CPU"), capacity("GPU")
    wanted = sweep.gpus_per_trial if sweep.gpus_per_trial is not None else float(gpus > 0)
    if is_own_ray():  # a cluster may still grow; this machine does not
        if wanted > gpus:
            raise ValueError(f"gpus: must be at most {gpus:g} (what there is here), got {wanted:g}: try --gpus 0")
        if sweep.cpus_per_trial > cpus:
            raise ValueError(f"cpus: must be at most {cpus:g} (what there is here), got {sweep.cpus_per_trial:g}")
    fit = int(cpus // sweep.cpus_per_trial)
    if wanted:
        fit = min(fit, int(gpus // wanted) if wanted >= 1 else int(gpus) * int(1 / wanted))
    resources = {"cpu": sweep.cpus_per_trial} | ({"gpu": wanted} if wanted else {})
    wished = sweep.max_concurrent or fit
    return resources, max(1, min(fit, wished) if is_own_ray() else wished)  # a cluster grows on demand alone


def run_trials(
    sweep: Sweep,
    phases: "Phases",
    records: Records,
    data: Any,
    console: Console,
    objective: str,
) -> None:
    from trainables.trial import Trial

    resources, num_parallel = trial_resources(sweep)
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
    know_killed_for_memory()
    (sweep.folder / "trials").mkdir(exist_ok=True)
    trainable = tune.with_parameters(Trial, data=data, folder=str(sweep.folder / "trials"), keep=sweep.keep)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it would say is in the records
    # Tune's own state is pickled, and of use to nobody: it stays on this host, where no other can write it.
    with tempfile.TemporaryDirectory(prefix="sweep-", ignore_cleanup_errors=True) as scratch, progress:
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


def error_of(trial: Any) -> str:
    """What Tune noted of a trial's last failure: text, so that nothing has to be unpickled."""
    try:
        _, _, last = Path(trial.error_file).read_text().rpartition("Failure # ")
    except (OSError, TypeError):
        last = ""
    last = last.partition("Some common causes include")[0]  # guesses of Ray's
    return last.partition("\n")[2].strip() or "its worker died"


def label(proposal: Proposal) -> str:
    config = proposal.config
    parts = [proposal.arm]
    if config.regularizer != "none":
        parts.append(f"lam {config.lam:.2g}")
    if "rho" in config.opt:
        parts.append(f"rho {config.opt['rho']:.2g}")
    if proposal.phase != "search":
        parts.append(f"seed {config.seed}")
    return " ".join(parts)


def know_killed_for_memory() -> None:
    """Have Tune take a worker that Ray killed, as its host ran out of memory, for a worker that died: Ray 2.60 says it
    with an error that Tune does not know, and gives the whole sweep up."""
    from ray.air.execution._internal.actor_manager import RayActorManager

    known = RayActorManager._actor_task_failed
    if hasattr(known, "__wrapped__"):
        return

    @functools.wraps(known)
    def also_for_memory(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, ray.exceptions.OutOfMemoryError):
            said = " ".join(str(exception).partition(", which exceeds")[0].split())[:300]
            exception = ray.exceptions.RayActorError(error_msg=said)
        known(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = also_for_memory  # type: ignore[method-assign]


class Watch(tune.Callback):
    """Writes what Tune reports into the records and onto the screen. Pickles to nothing: Tune's snapshot needs none.

    A trial whose worker died is made again, from its checkpoint, unless it has died MOST_ATTEMPTS times on the way to
    the next one; the death of a host does not count. Tune's own retries would count all alike, over the whole trial.
    """

    def __init__(self, records: Records, phases: "Phases", progress: Progress):
        self.records, self.phases, self.progress = records, phases, progress
        self.attempts: Counter[str] = Counter()  # since the last rung
        self.failures_in_a_row = 0

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        key = result["key"]
        self.attempts[key] = 0
        names = {name for name in result if name.split("_")[-1] in ("dense", "pruned")}
        names |= {"epoch", "loss", "penalty", "lr", "seconds", "status", "reason", "weights_left"} & set(result)
        report = {name: result[name] for name in result if name in names}
        with self.phases.stopping_on_storage_faults():
            if report["status"] == "running":
                self.records.rung(key, {k: v for k, v in report.items() if k not in ("status", "reason")})
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
        from trainables.training import num_epochs

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


# ---- which trials ----------------------------------------------------------------------------------------------


class Phases:
    """The search, and when all of it has ended, the best configurations again on unseen seeds, with the test split."""

    def __init__(self, sweep: Sweep, arms: list[Arm], records: Records, objective: str):
        self.sweep, self.arms, self.records, self.objective = sweep, arms, records, objective
        plan = records.plan
        self.search = Search(
            sweep.name,
            arms,
            storage=open_storage(sweep.study_uri or sweep.folder / "study.log"),
            num_trials=sweep.num_trials,
            seed=sweep.seed,
            make_config=sweep.trial_config,
            outcome=self.outcome,
            first=plan["first"],
            num_parallel=plan["num_parallel"],
        )
        self.num_search = len(self.search.slots)
        most = len(arms) if sweep.confirm_arms else min(sweep.num_confirm, self.num_search)
        self.num_confirm = most * sweep.num_seeds
        self.confirm: FixedTrials | None = None
        self.stopped_because = ""
        self._launched: dict[str, Proposal] = {}  # by this process
        self._again: list[Proposal] = []

    def outcome(self, key: str) -> float | None:
        trial = self.records.trials.get(key)
        if trial is None or not trial.done:
            return None
        return trial.report[f"{self.objective}_pruned"] if trial.status == "finished" else float("nan")

    def next(self) -> Any:
        """The next proposal, recorded as started; None while one has to wait for a result, or may yet have to be made
        again."""
        proposal: Any = FINISHED
        with self.stopping_on_storage_faults():
            proposal = self._again.pop(0) if self._again else self._next()
            if isinstance(proposal, Proposal) and not self.stopped_because:
                self._start(proposal)
        if self.stopped_because:
            return FINISHED
        if proposal is FINISHED and any(self.outcome(key) is None for key in self._launched):
            return None
        return proposal

    def _start(self, proposal: Proposal) -> None:
        config = proposal.config
        self.records.start(
            config.key,
            phase=proposal.phase,
            arm=proposal.arm,
            number=proposal.number,
            config=config.model_dump(mode="json"),
        )
        self._launched[config.key] = proposal

    def _next(self) -> Any:
        proposal = self.search.next()
        if proposal is not FINISHED:
            return proposal
        if self.confirm is None:
            if not self.search.ended():
                return None
            confirmations = self.confirmations()
            self.confirm, self.num_confirm = FixedTrials(confirmations), len(confirmations)
        while isinstance(proposal := self.confirm.next(), Proposal):
            if self.outcome(proposal.config.key) is None:
                return proposal
        return FINISHED

    def confirmations(self) -> list[Proposal]:
        """The best `num_confirm` configurations, or each arm's best, by validation; each with `num_seeds` new seeds."""
        keys = [self.search.config(slot).key for slot in self.search.slots]
        trials = [self.records.trials[key] for key in keys if self.records.trials[key].status == "finished"]
        trials.sort(key=lambda t: -t.report[f"{self.objective}_pruned"])
        if self.sweep.confirm_arms:
            by_arm = {trial.arm: trial for trial in reversed(trials)}
            chosen = sorted(by_arm.values(), key=lambda t: [arm.name for arm in self.arms].index(t.arm))
        else:
            chosen = trials[: self.sweep.num_confirm]
        proposals = []
        for trial in chosen:
            for seed in range(self.sweep.seed + 1, self.sweep.seed + 1 + self.sweep.num_seeds):
                config = TrialConfig.model_validate({**trial.config, "seed": seed, "read_test": True})
                proposals.append(Proposal(config, "confirm", trial.arm, trial.number))
        return proposals

    def again(self, key: str) -> None:
        """Propose a launched trial once more."""
        self._again.append(self._launched[key])

    def label(self, key: str) -> str:
        return label(self._launched[key])

    def stop(self, reason: str) -> None:
        self.stopped_because = self.stopped_because or reason

    @contextlib.contextmanager
    def stopping_on_storage_faults(self) -> Iterator[None]:
        """Where the records cannot be written nothing more is started; what is on the disk stays good."""
        try:
            yield
        except OSError as error:
            self.stop(f"The records cannot be written: {error.strerror}, {error.filename}. {STORAGE_HINT}")

    def complete(self) -> bool:
        """Whether every trial of both phases has ended."""
        return self.search.ended() and all(self.outcome(p.config.key) is not None for p in self.confirmations())


def known_elsewhere(sweep: Sweep) -> dict[str, list[dict[str, float]]]:
    """For each arm, the best lam and rho recorded by other sweeps for this architecture at this sparsity: of the same
    dataset first, then of others."""
    rows = best(sweep.runs, architecture=sweep.architecture, skip_sweep=sweep.name)
    own = {"scheme": sweep.scheme, "criterion": sweep.criterion, "scope": sweep.scope}
    rows = [row for row in rows if row["sparsity"] == sweep.target_sparsity and own.items() <= row.items()]
    rows.sort(key=lambda row: row["dataset"] != sweep.dataset)
    points: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        point = {"lam": row["lam"], "opt/rho": row["rho"]}
        point = {name: value for name, value in point.items() if value is not None}
        if point:
            points.setdefault(f"{row['optimizer']} + {row['regularizer']}", []).append(point)
    return points
