"""What a pruning_schedule decides; `trainables.loop.Training` carries it out."""

from collections.abc import Callable, Mapping

from torch import Tensor

from trainables.config import TrialConfig

__all__ = ["PruningSchedule"]


class PruningSchedule:
    """Training in `num_phases` phases of `max_epochs` each. Every phase begins at the same weights, those of the
    initialization or of an early checkpoint, with what was removed held at zero, and with a new optimizer and schedule.

    Constructed as PruningSchedule(config, **arguments); ValueError names a argument, or what of the configuration does not fit.
    rewind_epoch: the epoch of the first phase whose weights the later ones begin at; 0 is the initialization. Where the
        first phase has gates, the later ones begin at its gates too.
    """

    num_phases = 1
    rewind_epoch = 0

    def __init__(self, config: TrialConfig):
        self.config = config

    def regularized(self, phase: int) -> bool:
        """Whether the phase is trained with the regularizer."""
        return True

    def is_ticket(self, phase: int) -> bool:
        """Whether the network that the phase ends with is one to keep, at the sparsity that it has."""
        return self.num_phases > 1

    def next_masks(
        self,
        phase: int,
        kept: Mapping[str, Tensor],
        scores: Callable[[], dict[str, Tensor]],
        gates: Callable[[], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """What is left of each prunable weight after this phase: bool, True = kept, never more than `kept`.

        scores: gives the criterion's scores of the trained weights; gates: the gates' values, where there are any.
        """
        return dict(kept)

    def check_rewind_epoch(self, rewind_epoch: int) -> int:
        if not 0 <= rewind_epoch < self.config.max_epochs:
            raise ValueError(
                f"pruning_sched: rewind_epoch must be from 0 (initialization) to {self.config.max_epochs - 1} (before the last "
                f"epoch of a round), got {rewind_epoch}"
            )
        return rewind_epoch
