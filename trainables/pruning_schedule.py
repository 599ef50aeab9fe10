"""The interface of pruning schedules: what they decide, and `trainables.lottery` carries out."""

from collections.abc import Callable, Mapping

from torch import Tensor

import sparsity
from trainables.arguments import construct
from trainables.config import TrialConfig

__all__ = ["PruningSchedule", "make_pruning_schedule", "num_epochs"]


class PruningSchedule:
    """Training in `num_phases` phases of `max_epochs` epochs each, with pruning in between.

    Every phase begins at the same weights, those of the initialization or of an early epoch. The weights removed so far
    are held at zero, and optimizer and learning-rate schedule begin anew. Subclasses take further arguments as
    keywords.

    Raises:
        ValueError: If an argument is out of bounds, or something in the configuration does not fit.

    Attributes:
        num_phases: Number of trainings.
        rewind_epoch: The epoch of the first phase whose final weights, and gates if it has some, the later phases begin
            at. 0 is the initialization.
    """

    num_phases = 1
    rewind_epoch = 0

    def __init__(self, config: TrialConfig):
        self.config = config

    def regularized(self, phase: int) -> bool:
        """Whether the phase is trained with the regularizer."""
        return True

    def is_ticket(self, phase: int) -> bool:
        """Whether to keep the network that the phase ends with, for the sparsity that it has."""
        return self.num_phases > 1

    def next_masks(
        self,
        phase: int,
        kept: Mapping[str, Tensor],
        scores: Callable[[], dict[str, Tensor]],
        gates: Callable[[], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """The masks of the next phase.

        Args:
            phase: The phase that has ended, counted from 0.
            kept: Its masks: weight name -> bool tensor, True = kept.
            scores: Computes the criterion's scores of the trained weights, by name.
            gates: Computes the values of the regularizer's gates, by weight name; only for a regularizer with gates.

        Returns:
            Masks that keep no more than `kept` does.
        """
        return dict(kept)

    def check_rewind_epoch(self, rewind_epoch: int) -> int:
        """Return `rewind_epoch` if it is an epoch before the last one of a phase, else raise ValueError."""
        if not 0 <= rewind_epoch < self.config.max_epochs or rewind_epoch != int(rewind_epoch):
            raise ValueError(
                f"pruning_sched: rewind_epoch must be a whole number from 0 (initialization) to "
                f"{self.config.max_epochs - 1} (before the last epoch of a round), got {rewind_epoch}"
            )
        return int(rewind_epoch)


def make_pruning_schedule(config: TrialConfig) -> PruningSchedule:
    """Create the pruning schedule of a configuration. ValueError says which argument does not fit."""
    cls = sparsity.load("trainables.pruning_schedules", config.pruning_schedule)
    return construct("pruning_sched", cls, config, arguments=config.pruning_sched)


def num_epochs(config: TrialConfig) -> int:
    """Epochs of a whole trial: `max_epochs` in each phase of its pruning schedule."""
    return make_pruning_schedule(config).num_phases * config.max_epochs
