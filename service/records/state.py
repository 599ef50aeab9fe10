"""The state of a sweep: what follows from the events in its log."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.records.events import EventLog
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
FORMAT = 2  # of the events; recorded in a sweep's first event


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
    curve: list[dict[str, Any]] = field(default_factory=list)  # validation metrics by sparsity
    test: list[dict[str, Any]] | None = None  # test metrics by sparsity; None in the search
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # the notes that make its numbers doubtful
    collapsed: bool = False  # the network predicts the same for every example, dense or at the target sparsity
    collapsed_from: float | None = None  # the lowest sparsity from which on it does
    objective: str = "acc"  # the metric that the search maximizes

    @property
    def done(self) -> bool:
        return Status(self.status).ended

    @property
    def pruned_objective(self) -> float:
        """The objective of a finished trial on validation, pruned to the target sparsity."""
        return self.report[f"{self.objective}_pruned"]

    def at(self, sparsity: float, metric: str, split: str = "curve") -> float | None:
        """A metric after pruning to a sparsity, None if it was not measured.

        Args:
            sparsity: Fraction of prunable weights removed.
            metric: Name of the metric, e.g. "acc".
            split: "curve" for validation or "test".
        """
        rows = getattr(self, split) or ()
        return next((row[metric] for row in rows if row["sparsity"] == sparsity), None)


class State:
    """What is known of a sweep. It changes only by `apply`; `State.read` needs no lock and writes nothing.

    Attributes:
        folder: The sweep's folder.
        header: The first event: sweep_id, identity and software; empty before it.
        search_state: What the search was started with beside its configuration; empty before it started.
        last_run: The last process that ran the sweep: its command, working directory, host and number of trials.
        trials: The trials by key, in the order in which they started.
        summary: The result that was last recorded (see `service.records.summary`), None without one.
    """

    def __init__(self, folder: Path, events: Iterable[Mapping[str, Any]] = ()):
        self.folder = folder
        self.header: dict[str, Any] = {}
        self.search_state: dict[str, Any] = {}
        self.last_run: dict[str, Any] = {}
        self.trials: dict[str, TrialRecord] = {}
        self.summary: dict[str, Any] | None = None
        for event in events:
            self.apply(event)

    @classmethod
    def read(cls, folder: Path) -> "State":
        """The state of the sweep in a folder as it is now.

        Raises:
            ValueError: If another version wrote the records, or the event log is damaged.
        """
        refuse_unreadable(folder)
        return cls(folder, (event for event, _ in EventLog.read(folder / EVENTS)))

    def apply(self, event: Mapping[str, Any]) -> None:
        """Change the state by one event."""
        kind = event["event"]
        if kind == "sweep":
            if event.get("format") != FORMAT:
                raise ValueError(unreadable(self.folder, f"format {event.get('format')}"))
            self.header = dict(event)
        elif kind == "search_state":
            self.search_state = dict(event)
        elif kind == "run":
            self.last_run = dict(event)
        elif kind == "summary":
            self.summary = event["summary"]
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
        elif kind == "end":
            trial = self.trials[event["trial"]]
            for name in END_FIELDS:
                setattr(trial, name, event[name])

    def trial_folder(self, key: str) -> Path:
        return self.folder / "trials" / key

    def finished(self, phase: str) -> list[TrialRecord]:
        """The finished trials of a phase, "search" or "confirm"."""
        return [t for t in self.trials.values() if t.phase == phase and t.status == Status.FINISHED]


# The fields of a TrialRecord that its "end" event carries.
END_FIELDS = (
    *("status", "reason", "report", "curve", "test", "notes", "warnings"),
    *("collapsed", "collapsed_from", "objective"),
)


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
