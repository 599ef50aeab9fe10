"""A sweep as the sections of a report see it."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.records.best import without_seed
from service.records.state import State, TrialRecord
from service.records.summary import current_summary
from service.views.figures import split_arm
from sparsity.import_strings import short_name
from trainables.result import read_result

__all__ = ["Method", "SweepView"]


@dataclass(frozen=True)
class Method:
    """A configuration of an arm with its trials, which differ in the seed alone.

    Args:
        name: The arm.
        split: Where it is measured: "test" for confirmed configurations, "curve" (validation) without a confirmation.
    """

    name: str
    optimizer: str
    penalty: str
    split: str
    trials: Sequence[TrialRecord]

    def values(self, sparsity: float, label: str) -> dict[int, float]:
        """The objective after pruning, by seed."""
        found = {t.config["seed"]: t.at(sparsity, t.objective, self.split, label) for t in self.trials}
        return {seed: value for seed, value in found.items() if value is not None}


class SweepView:
    """The records of a sweep, and what sections compute from them more than once.

    Attributes:
        state: The records.
        summary: See `service.records.summary`.
        methods: What is compared: the confirmed configurations, best first; the best ones of the search without a
            confirmation.
        levels: The sparsities that all trials have, ascending.
    """

    def __init__(self, state: State):
        self.state = state
        self.summary = current_summary(state)
        self.objective: str = self.summary["objective"]
        self.label = self.summary["method"]
        self.levels = [float(level) for level in self.summary["levels"].get(self.label, ())]
        self.target: float = self.summary["target_sparsity"]
        self.methods = self._methods()

    @property
    def name(self) -> str:
        return self.state.folder.name

    @property
    def subject(self) -> str:
        """The network and the data, by the names that tables show."""
        trial = self.state.identity["trial"]
        return f"{short_name(trial['architecture'])} on {short_name(trial['dataset'])}"

    @property
    def search(self) -> list[TrialRecord]:
        """The finished trials of the search that are measured at what the sweep maximizes."""
        goal = self.state.goal
        return [trial for trial in self.state.finished("search") if goal.value(trial) is not None]

    def _methods(self) -> list[Method]:
        rows = self.summary["confirmed"] or self.summary["arms"]
        phase, split = ("confirm", "test") if self.summary["confirmed"] else ("search", "curve")
        return [Method(row["arm"], *split_arm(row["arm"]), split, self._trials(phase, row)) for row in rows]

    def _trials(self, phase: str, row: dict[str, Any]) -> list[TrialRecord]:
        """The trials of a row of the summary: those of the same configuration as its first one."""
        config = without_seed(self.state.trials[row["trial"]].config)
        same = [trial for trial in self.state.finished(phase) if without_seed(trial.config) == config]
        return sorted(same, key=lambda trial: trial.config["seed"])

    @functools.cache  # noqa: B019 (one view lives as long as the report is made)
    def result(self, key: str) -> dict[str, Any] | None:
        """The result.json of a trial; None if it is not there any more."""
        try:
            return read_result(self.state.trial_folder(key))
        except OSError:
            return None
