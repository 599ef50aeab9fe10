"""The state of a sweep: what follows from the events in its log."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.records.events import EventLog, damaged, is_event
from service.records.goal import Goal
from trainables.result import Status

__all__ = [
    "EVENTS",
    "FORMAT",
    "State",
    "TrialRecord",
    "find_sweeps",
    "find_unreadable_sweeps",
    "flatten",
    "refuse_unreadable",
]

EVENTS = "events.jsonl"  # the event log in a sweep's folder
EVENTS_OF_0_1 = "journal.jsonl"  # what version 0.1 wrote instead
FORMAT = 3  # of the events; recorded in a sweep's first event


@dataclass
class TrialRecord:
    """One configuration, trained once."""

    key: str
    phase: str  # "search" or "confirm"
    arm: str  # the optimizer with the regularizer, e.g. "sam + wcr"
    number: int  # of the configuration in its arm's search
    config: dict[str, Any]
    status: str = Status.RUNNING
    reason: str = ""  # why it did not finish
    report: dict[str, Any] = field(default_factory=dict)  # of its last evaluation
    evaluations: list[dict[str, Any]] = field(default_factory=list)  # reports during training, by epoch
    # by label of the pruning method: the method, and its metrics by sparsity on validation ("curve") and "test"
    pruned: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # the notes that make its numbers doubtful
    objective: str = "acc"  # the metric that the search maximizes
    target_sparsity: float | None = None  # of the network in its pruned checkpoint
    unmeasured: str = ""  # why a pruning method that was asked for later could not be evaluated
    diagnostics: dict[str, float] = field(default_factory=dict)  # of its training, such as the penalty's share
    num_prunable: int | None = None  # weights that the first pruning method may remove
    left_out: bool = False  # it does not fit the sweep any more, which has been changed

    @property
    def done(self) -> bool:
        return Status(self.status).ended

    def rows(self, method: str, split: str = "curve") -> list[dict[str, Any]]:
        """The metrics by sparsity; empty if they were not measured.

        Args:
            method: Label of the pruning method.
            split: "curve" for validation or "test".
        """
        return self.pruned.get(method, {}).get(split) or []

    def at(self, sparsity: float, metric: str, split: str, method: str) -> float | None:
        """A metric after pruning to a sparsity, None if it was not measured.

        Args:
            sparsity: Fraction of prunable weights removed.
            metric: Name of the metric, e.g. "acc".
            split: "curve" for validation or "test".
            method: Label of the pruning method.
        """
        return next((row.get(metric) for row in self.rows(method, split) if row["sparsity"] == sparsity), None)


class State:
    """What is known of a sweep. It changes only by `apply`; `State.read` needs no lock and writes nothing.

    Attributes:
        folder: The sweep's folder.
        header: The first event: sweep_id, identity and software; empty before it.
        identity: What the sweep is now (`SweepSpec.identity`): the header's, or that of the last change.
        software_of_changes: The software at each change of the sweep.
        num_changes: How often the sweep was changed.
        search_state: What the search was started with beside its configuration; empty before it started.
        last_run: The last process that ran the sweep: its command, working directory, host and number of trials.
        trials: The trials by key, in the order in which they started.
        ended: The keys of trials in the order in which they ended; a trial that ran again is listed again.
        summary: The result that was last recorded (see `service.records.summary`), None without one.
        complete: Whether that is the result of all trials, and the sweep was not continued, changed or retried since.
    """

    def __init__(self, folder: Path, events: Iterable[Mapping[str, Any]] = ()):
        self.folder = folder
        self.header: dict[str, Any] = {}
        self.identity: dict[str, Any] = {}
        self.software_of_changes: list[dict[str, str]] = []
        self.search_state: dict[str, Any] = {}
        self.last_run: dict[str, Any] = {}
        self.trials: dict[str, TrialRecord] = {}
        self.ended: list[str] = []
        self.summary: dict[str, Any] | None = None
        self.complete = False
        for event in events:
            try:
                self.apply(event)
            except KeyError:
                raise damaged(folder / EVENTS, "whole events in their order", str(event)[:60]) from None

    @classmethod
    def read(cls, folder: Path, *, evaluations: bool = True) -> "State":
        """The state of the sweep in a folder as it is now.

        Args:
            folder: The sweep's folder.
            evaluations: False leaves out the trials' evaluations, which are most of a log, to read it faster.

        Raises:
            ValueError: If another version wrote the records, or the event log is damaged.
        """
        refuse_unreadable(folder)
        wanted = None if evaluations else is_no_evaluation
        return cls(folder, (event for event, _ in EventLog.read(folder / EVENTS, wanted=wanted)))

    @property
    def num_changes(self) -> int:
        return len(self.software_of_changes)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Change the state by one event."""
        kind = event["event"]
        if kind in ("change", "run", "retry"):
            self.complete = False
        if kind == "sweep":
            if event.get("format") != FORMAT:
                raise ValueError(unreadable(self.folder, f"format {event.get('format')}"))
            self.header, self.identity = dict(event), event["identity"]
        elif kind == "change":
            self.identity, self.search_state = event["identity"], {}
            self.software_of_changes.append(event["software"])
            left_out = set(event["left_out"])
            for trial in self.trials.values():
                trial.left_out = trial.key in left_out
        elif kind == "search_state":
            self.search_state = dict(event)
        elif kind == "run":
            self.last_run = dict(event)
        elif kind == "summary":
            self.summary, self.complete = event["summary"], bool(event["summary"].get("complete"))
        elif kind == "start":
            self.trials[event["trial"]] = TrialRecord(
                event["trial"], event["phase"], event["arm"], event["number"], event["config"]
            )
        elif kind == "retry":
            self.trials[event["trial"]].status = Status.WAITING
        elif kind == "evaluation":
            evaluations = self.trials[event["trial"]].evaluations
            evaluations.append(event["report"])
            evaluations.sort(key=lambda report: report["epoch"])
        elif kind == "end" or (kind == "pruned" and event["status"] == Status.FINISHED):
            trial = self.trials[event["trial"]]
            for name in END_FIELDS:
                setattr(trial, name, event[name])
            trial.diagnostics = event.get("diagnostics", {})
            trial.num_prunable = event.get("num_prunable")  # earlier versions recorded none
            trial.pruned = {entry["label"]: entry for entry in event["pruned"]}
            trial.unmeasured = ""
            self.ended.append(event["trial"])
        elif kind == "pruned":
            self.trials[event["trial"]].unmeasured = event["reason"]
            self.ended.append(event["trial"])

    def trial_folder(self, key: str) -> Path:
        return self.folder / "trials" / key

    def finished(self, phase: str) -> list[TrialRecord]:
        """The finished trials of a phase, "search" or "confirm", that the sweep still has."""
        return [t for t in self.trials.values() if t.phase == phase and t.status == Status.FINISHED and not t.left_out]

    @property
    def goal(self) -> Goal:
        """What the sweep maximizes.

        Raises:
            ValueError: If the sweep has not begun.
        """
        if not self.identity:
            raise ValueError(f"{self.folder}: must hold the records of a sweep that has begun, got empty records")
        return Goal.of(self.identity)


# The fields of a TrialRecord that the end of its training and each later pruning set.
END_FIELDS = ("status", "reason", "report", "notes", "warnings", "objective", "target_sparsity")


def is_no_evaluation(line: bytes) -> bool:
    return not is_event(line, "evaluation")


def find_sweeps(runs: Path) -> list[Path]:
    """The folders of the sweeps recorded in a folder of runs."""
    return sorted(path.parent for path in runs.glob(f"*/{EVENTS}"))


def find_unreadable_sweeps(runs: Path) -> list[Path]:
    """The folders of sweeps that version 0.1 recorded, which this version cannot read."""
    return sorted(path.parent for path in runs.glob(f"*/{EVENTS_OF_0_1}") if not (path.parent / EVENTS).exists())


def refuse_unreadable(folder: Path) -> None:
    """Raise ValueError, with what to do, if version 0.1 recorded the sweep in a folder."""
    if (folder / EVENTS_OF_0_1).exists() and not (folder / EVENTS).exists():
        raise ValueError(unreadable(folder, "version 0.1"))


def unreadable(folder: Path, written_by: str) -> str:
    return (
        f"{folder}: must hold records of this version (format {FORMAT}), got records of {written_by}: choose another "
        "--name or --runs, remove the folder, or use the version that wrote it"
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the names of nested groups by "/": {"opt": {"rho": 0.1}} becomes {"opt/rho": 0.1}.

    Optuna, Ray, MLflow and the command line share this spelling.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
