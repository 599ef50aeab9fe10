import itertools
import math
from collections.abc import Iterator

from sparsity import masks
from trainables.pruning_schedule import PruningSchedule

__all__ = ["IterativeMagnitudePruning"]


class IterativeMagnitudePruning(PruningSchedule):
    """Train, remove a fraction of what is left by the criterion's scores, rewind the rest, and so on: lottery tickets.

    Source: Frankle & Carbin, "The lottery ticket hypothesis: finding sparse, trainable neural networks", ICLR 2019,
    with 20% a round; rewinding to an early checkpoint: Frankle, Dziugaite, Roy & Carbin, "Linear mode connectivity and
    the lottery ticket hypothesis", ICML 2020.

    A round here is trained for all of `max_epochs`, with the whole schedule, whatever the epoch it was rewound to.
    fraction: in (0, 1), removed of what is left, a round: between two of the configuration's sparsities as nearly as a
        whole number of equal rounds allows, so that each of them has a network that was trained at exactly it.
    rewind_epoch: see `PruningSchedule`.
    Cost: as many trainings as it takes rounds to reach the highest sparsity, and one: 13 + 1 to 0.95.
    ValueError for a fraction or an epoch out of bounds, an n:m scope (it has one level only), highest sparsity 0.
    """

    def __init__(self, config, *, fraction: float = 0.2, rewind_epoch: int = 0):
        super().__init__(config)
        if not 0 < fraction < 1:
            raise ValueError(f"pruning_sched: fraction must be in (0, 1), got {fraction:g}")
        if ":" in config.scope:
            raise ValueError(f"scope: must be global or uniform for imp (it removes in rounds), got {config.scope}")
        self.rewind_epoch = self.check_rewind_epoch(rewind_epoch)
        self.sparsities = tuple(rounds(config.levels, fraction))
        if not self.sparsities:
            raise ValueError("sparsity: must be above 0 somewhere for imp (nothing is removed), got 0")
        self.num_phases = len(self.sparsities) + 1

    def next_masks(self, phase, kept, scores, gates):
        ranked = {name: s.masked_fill(~kept[name], -float("inf")) for name, s in scores().items()}
        ranking = masks.rank(list(ranked.values()), self.config.scope, min_kept=self.config.min_kept)
        return dict(zip(ranked, ranking.masks(self.sparsities[phase]), strict=True))


def rounds(levels: tuple[float, ...], fraction: float) -> Iterator[float]:
    """The sparsity after each round, ascending; `levels`, ascending from 0, are all met exactly."""
    for low, high in itertools.pairwise(levels):
        shrink = (1 - high) / (1 - low)
        num = max(1, round(math.log(shrink) / math.log(1 - fraction)))
        yield from (1 - (1 - low) * shrink ** (i / num) for i in range(1, num))
        yield high
