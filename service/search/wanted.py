"""What has to be measured of a trained network, and whether it is recorded."""

from pathlib import Path

from service.records.state import TrialRecord
from trainables.config import TrialConfig

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
        """Whether everything is recorded of a finished trial.

        If another method or sparsity decided its objective, its checkpoint is another network too; that is corrected
        only where the trained weights are there, because it alone is no reason to train again.
        """
        if trial.key in self._complete:
            return True
        splits = ("curve", "test") if trial.phase == "confirm" else ("curve",)
        complete = all(
            set(levels) <= {row["sparsity"] for row in trial.rows(label, split)}
            for label, levels in self.levels.items()
            for split in splits
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
