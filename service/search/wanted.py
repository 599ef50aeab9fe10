"""Whether the records of a trial contain every pruning method and sparsity that the sweep needs."""

from pathlib import Path

from service.records.state import TrialRecord
from trainables.config import TrialConfig
from trainables.final_evaluation import unmeasured

__all__ = ["Wanted"]


class Wanted:
    """The pruning methods and sparsities that every trial of a sweep is to be measured with.

    Args:
        config: A configuration with these methods and sparsities.
        folder: The folder of the sweep's trials.
    """

    def __init__(self, config: TrialConfig, folder: Path):
        self.folder = folder
        self.first, self.target = config.pruning[0].label, config.target_sparsity
        self.levels = {method.label: config.pruned_by(method).levels for method in config.pruning}
        self._complete: set[str] = set()

    def has(self, trial: TrialRecord) -> bool:
        """Whether a finished trial has all results.

        If the objective was decided by another method or sparsity, the pruned checkpoint must be replaced. This is
        done only if the trained weights were kept; it is not worth another training.
        """
        if trial.key in self._complete:
            return True
        splits = ("curve", "test") if trial.phase == "confirm" else ("curve",)
        complete = not any(
            unmeasured(self.levels, {label: trial.rows(label, split) for label in self.levels}) for split in splits
        )
        decided = next(iter(trial.pruned), ""), trial.target_sparsity
        if complete and decided != (self.first, self.target) and self.is_kept(trial.key):
            complete = False
        if complete:
            self._complete.add(trial.key)
        return complete

    def is_kept(self, key: str) -> bool:
        """Whether the trained weights of a trial are there."""
        return (self.folder / key / "trained" / "config.json").exists()
