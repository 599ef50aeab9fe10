"""What happened in a sweep. The journal is the truth: `Records` replays it and appends to it."""

import fcntl
import json
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.records.events import EventLog
from trainables.config import expanded
from trainables.result import read_result

__all__ = ["Records", "TrialRecord", "best", "find_sweeps"]

LOCK_PATIENCE = 2.0  # seconds: someone may look at the lock just now
SIGHT_TIMEOUT = 20.0  # seconds for a result to be seen here that was written on another host: NFS looks now and then
RETRIED = ("error", "lost", "out_of_memory")  # what may go better another time; what diverged diverges again
PRUNED_BY = {
    "pruning_schedule": "one_shot",
    "criterion": "magnitude",
    "scope": "global",
}  # with the usual value of each
# What is trained, on what and for how long. Values of different settings are never compared.
SETTING = (
    *("task", "task_args", "dataset", "data", "architecture", "model", "train_size", "eval_size"),
    *("max_epochs", "patience", "batch_size", "lr_schedule", "lr_sched"),
)


@dataclass
class TrialRecord:
    """One configuration, trained once. status: waiting (to be made again) or running; finished, diverged,
    out_of_memory, error (an exception) or lost (its worker died again and again)."""

    key: str
    phase: str
    arm: str
    number: int
    config: dict
    status: str = "running"
    reason: str = ""
    report: dict = field(default_factory=dict)
    evaluations: list[dict] = field(default_factory=list)
    curve: list[dict] = field(default_factory=list)  # validation metrics by sparsity
    test: list[dict] | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # of the notes those that make its numbers doubtful
    collapsed: bool = False  # the network predicts the same for everything, dense or pruned to the target sparsity
    collapsed_from: float | None = None  # the lowest sparsity from which on it does
    objective: str = "acc"  # the metric that the search maximizes

    @property
    def done(self) -> bool:
        return self.status not in ("waiting", "running")

    def at(self, sparsity: float, metric: str, split: str = "curve") -> float | None:
        rows = getattr(self, split) or ()
        return next((row[metric] for row in rows if row["sparsity"] == sparsity), None)


def without_password(text: str) -> str:
    """The text as it may be shown and kept: http://user:***@host of an address with a password."""
    return re.sub(r"(://[^/@:\s]*):[^@/\s]*@", r"\1:***@", text)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"opt": {"rho": 0.1}} as {"opt/rho": 0.1}: one spelling in Optuna, Ray and MLflow."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


class Records:
    """The records of one sweep, in its folder. Raises ValueError if the folder is another sweep's or is in use."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._hold_lock()
        self.header: dict[str, Any] = {}
        self.plan: dict[str, Any] = {}
        self.trials: dict[str, TrialRecord] = {}
        self.summary: dict | None = None
        self.last_run: dict[str, Any] = {}
        self.journal = EventLog(folder / "events.jsonl")
        for entry, _ in EventLog.read(self.journal.path):
            self._apply(entry)
        identity = json.loads(json.dumps(identity))
        if not self.header:
            self._write("sweep", sweep_id=uuid4().hex, identity=identity, software=software_versions())
        elif self.header["identity"] != identity:
            raise ValueError(f"{folder}: {explain_difference(self.header['identity'], identity)}")

    def _hold_lock(self) -> Any:
        """One process a sweep: the lock goes with the process that holds it, however it ends."""
        lock = (self.folder / "lock").open("a+")
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                lock.seek(0)
                raise ValueError(
                    f"{self.folder}: must be used by one process at a time, is in use by "
                    f"{lock.read().strip() or 'another'}"
                ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        (self.folder / "stop").unlink(missing_ok=True)  # asked of a process that had ended already
        return lock

    @staticmethod
    def holder(folder: Path) -> str:
        """Which process runs the sweep in `folder`, empty if none does."""
        try:
            with (folder / "lock").open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return lock.read().strip() or "another process"
        except FileNotFoundError:
            pass
        return ""

    @staticmethod
    def ask_to_stop(folder: Path) -> None:
        """A file, as the process may run on another host that sees the folder."""
        (folder / "stop").touch()

    @property
    def asked_to_stop(self) -> bool:
        return (self.folder / "stop").exists()

    @classmethod
    def replay(cls, folder: Path) -> "Records":
        """The records as they stand, to be read only: no lock, nothing written."""
        records = cls.__new__(cls)
        records.folder, records.header, records.plan, records.trials, records.summary = folder, {}, {}, {}, None
        records.last_run = {}
        for entry, _ in EventLog.read(folder / "events.jsonl"):
            records._apply(entry)
        return records

    def _write(self, event: str, **fields: Any) -> None:
        self._apply(self.journal.append(event, **fields))

    def _apply(self, entry: Mapping[str, Any]) -> None:
        event = entry["event"]
        if event == "sweep":
            self.header = dict(entry)
        elif event == "plan":
            self.plan = dict(entry)
        elif event == "run":
            self.last_run = dict(entry)
        elif event == "start":
            self.trials[entry["trial"]] = TrialRecord(
                entry["trial"], entry["phase"], entry["arm"], entry["number"], entry["config"]
            )
        elif event == "retry":
            self.trials[entry["trial"]].status = "waiting"
        elif event == "evaluation":
            evaluations = self.trials[entry["trial"]].evaluations
            evaluations.append(entry["report"])
            evaluations.sort(key=lambda evaluation: evaluation["epoch"])
        elif event == "end":
            trial = self.trials[entry["trial"]]
            trial.status, trial.reason, trial.report = entry["status"], entry["reason"], entry["report"]
            trial.curve, trial.test, trial.notes = entry["curve"], entry["test"], entry["notes"]
            trial.warnings = entry.get("warnings", [])
            trial.collapsed, trial.collapsed_from = entry.get("collapsed", False), entry.get("collapsed_from")
            trial.objective = entry.get("objective", "acc")
        elif event == "summary":
            self.summary = entry["summary"]

    def note_run(self, command: Sequence[str] | None, *, num_search: int, num_confirm: int) -> None:
        """A process goes on with the sweep. command: what was typed, if anything was; its passwords are left out."""
        words = None if command is None else [without_password(word) for word in command]
        place = {"cwd": str(Path.cwd()), "host": platform.node(), "process": os.getpid()}
        self._write("run", command=words, num_search=num_search, num_confirm=num_confirm, **place)

    def retry(self, statuses: Sequence[str] = RETRIED) -> list[str]:
        """Forget how trials of these statuses ended: the sweep makes them again when it is run. Returns their keys."""
        keys = [key for key, trial in self.trials.items() if trial.status in statuses]
        for key in keys:
            # The journal second: cut off in between, it can be asked for again.
            (self.trial_folder(key) / "result.json").unlink(missing_ok=True)
            self._write("retry", trial=key)
        return keys

    def start_plan(self, *, first: Mapping[str, Any], num_parallel: int) -> None:
        """What the search goes by beside its configuration: decided when it first starts, kept when it goes on."""
        self._write("plan", first=first, num_parallel=num_parallel)

    def start(self, key: str, *, phase: str, arm: str, number: int, config: Mapping[str, Any]) -> None:
        """A trial was launched; launching it again, after a kill, is the same trial."""
        if key not in self.trials or self.trials[key].status == "waiting":
            self._write("start", trial=key, phase=phase, arm=arm, number=number, config=config)

    def evaluation(self, key: str, report: Mapping[str, Any]) -> None:
        """A evaluation's report, once: a retried trial repeats the epochs behind its checkpoint, and computes the same."""
        if report["epoch"] not in {evaluation["epoch"] for evaluation in self.trials[key].evaluations}:
            self._write("evaluation", trial=key, report=report)

    def end(self, key: str, *, lost: str = "", wait: float = SIGHT_TIMEOUT) -> None:
        """A trial ended: what became of it lies in its folder. lost: why it did not, after which nothing is waited for.

        wait: seconds until a result must be seen that another host has written.
        """
        if self.trials[key].done:
            return
        deadline = time.monotonic() + (0 if lost else wait)
        while (result := read_result(self.trial_folder(key))) is None and time.monotonic() < deadline:
            time.sleep(0.2)
        if result is None:
            reason = lost or f"it ended, but its result is not seen in {self.trial_folder(key)}"
            evaluations = self.trials[key].evaluations
            result = {
                "report": {**(evaluations[-1] if evaluations else {}), "status": "lost", "reason": reason},
                "notes": [],
            }
        for evaluation in result.get("evaluations", ()):  # those that a driver was killed before it heard of
            self.evaluation(key, evaluation)
        self._write(
            "end",
            trial=key,
            status=result["report"]["status"],
            reason=result["report"]["reason"],
            report=result["report"],
            curve=result.get("curve", []),
            test=result.get("test"),
            diagnostics=result.get("diagnostics", {}),
            notes=result["notes"],
            warnings=result.get("warnings", []),
            collapsed=result.get("collapsed", False),
            collapsed_from=result.get("collapsed_from"),
            objective=result.get("objective", "acc"),
        )

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """The sweep's result; written again only if it changed."""
        if json.loads(json.dumps(summary)) != self.summary:
            self._write("summary", summary=summary)

    def trial_folder(self, key: str) -> Path:
        return self.folder / "trials" / key

    def finished(self, phase: str) -> list[TrialRecord]:
        return [t for t in self.trials.values() if t.phase == phase and t.status == "finished"]

    def close(self) -> None:
        self.journal.close()
        self._lock.close()


def explain_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    a, b = flatten(there), flatten(here)
    changed = [f"{name}: {a.get(name)} there, {b.get(name)} here" for name in {**a, **b} if a.get(name) != b.get(name)]
    return (
        f"must be of the same sweep, holds one with another configuration ({'; '.join(changed[:4])}"
        f"{', ...' if len(changed) > 4 else ''}): choose another --name or --runs, or remove the folder"
    )


def software_versions() -> dict[str, str]:
    """Versions of what decides the numbers. `git_commit` is ours if this is a checkout, else the installed version."""
    from importlib.metadata import version

    packages = ("sparsity-sweeps", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy")
    versions = {name: version(name) for name in packages}
    commit = commit_of(Path(__file__)) or f"none: sparsity-sweeps {versions['sparsity-sweeps']} as installed"
    return {"python": platform.python_version(), **versions, "git_commit": commit}


def commit_of(file: Path) -> str:
    """The commit that `file` is part of, with "-dirty" after changes. Empty if no repository tracks the file."""
    # A hook of any repository sets these, and git would then look there instead of at the file's own place.
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        tracked = git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else ""
    except OSError:  # there is no git, as in slim images
        return ""


# ---- what is known to work -----------------------------------------------------------------------------------------


def find_sweeps(runs: Path) -> list[Path]:
    """The folders of the sweeps recorded under `runs`."""
    return sorted(path.parent for path in runs.glob("*/events.jsonl"))


def best(
    runs: str | Path = "runs",
    *,
    architecture: str | None = None,
    dataset: str | None = None,
    optimizer: str | None = None,
    regularizer: str | None = None,
    skip_sweep: str | None = None,
) -> list[dict[str, Any]]:
    """The best configuration of each combination, setting, way of pruning and sparsity, from the journals.

    A combination is an optimizer with a regularizer. Settings (`SETTING`: network, data, epochs, batch size, schedule)
    have rows of their own, so that a short training on a few images never displaces a full one. Only trials that ran to
    their end count.

    A row's `value` is the objective on the validation split after pruning at that sparsity: the mean over the `n` seeds
    that the search did not see if there are any (`seeds` is "unseen"), else over the search's own ("search"). The two
    are never mixed: the search selects configurations for being lucky on its seeds. `spread` is the sample standard
    deviation, None for n = 1. Rows also have lam, rho, lr and weight_decay (None where there is none), all fields of
    `SETTING`, sweep and trial. Confirmed configurations come before unconfirmed ones.
    """
    wanted = {"architecture": architecture, "dataset": dataset, "optimizer": optimizer, "regularizer": regularizer}
    groups: dict[str, dict[str, tuple[str, TrialRecord]]] = {}
    for folder in find_sweeps(expanded(runs, "runs")):
        if folder.name == skip_sweep:
            continue
        for trial in Records.replay(folder).trials.values():
            config = trial.config
            if trial.status == "finished" and all(v is None or config[k] == v for k, v in wanted.items()):
                groups.setdefault(without_seed(config), {}).setdefault(trial.key, (folder.name, trial))
    rows: dict[tuple, dict] = {}
    for group in groups.values():
        unseen = [item for item in group.values() if item[1].phase == "confirm"]
        sweep, first = min(unseen or group.values(), key=lambda item: item[1].config["seed"])
        config = first.config
        for point in first.curve:
            sparsity, metric = point["sparsity"], first.objective
            values = [v for _, trial in unseen or group.values() if (v := trial.at(sparsity, metric)) is not None]
            row = {
                **{name: config[name] for name in wanted},
                **{name: config.get(name, default) for name, default in PRUNED_BY.items()},
                "sparsity": sparsity,
                "lam": None if config["regularizer"] == "none" else config["lam"],
                **{name: config["opt"].get(name) for name in ("rho", "lr", "weight_decay")},
                "metric": metric,
                **mean_and_spread(values),
                "seeds": "unseen" if unseen else "search",
                **{name: config.get(name) for name in SETTING},
                "sweep": sweep,
                "trial": first.key,
            }
            setting = json.dumps([row[name] for name in SETTING], sort_keys=True)
            place = (*(row[name] for name in (*wanted, *PRUNED_BY)), -row["max_epochs"], setting, sparsity)
            rank = (row["seeds"] == "unseen", row["value"])
            if place not in rows or rank > (rows[place]["seeds"] == "unseen", rows[place]["value"]):
                rows[place] = row
    return [rows[place] for place in sorted(rows)]


def without_seed(config: Mapping[str, Any]) -> str:
    """What trials of one configuration with different seeds have in common, as text."""
    return json.dumps({k: v for k, v in config.items() if k not in ("seed", "read_test")}, sort_keys=True)


def mean_and_spread(values: list[float]) -> dict[str, Any]:
    """{"value": mean, "spread": sample standard deviation (None for fewer than two values), "n": how many}."""
    n = len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None
    return {"value": mean, "spread": spread, "n": n}
