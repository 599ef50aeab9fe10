import itertools
import math
from collections.abc import Iterator

from sparsity import masks
from trainables.pruning_schedule import PruningSchedule

__all__ = ["IterativeMagnitudePruning"]


class IterativeMagnitudePruning(PruningSchedule):
    """Iterative magnitude pruning: train, remove a fraction, rewind, repeat.

    Each round removes the remaining weights with the lowest scores of the trial's criterion. Every round trains for all
    of `max_epochs` with the whole learning-rate schedule, whatever epoch the weights were rewound to.

    Args:
        config: The trial's configuration.
        fraction: Fraction of the remaining weights that a round removes, in (0, 1). It is adjusted, equally for all
            rounds between two sparsities of the configuration, so that each of these sparsities has a network that was
            trained at exactly it.
        rewind_epoch: See `PruningSchedule`.

    Raises:
        ValueError: If an argument is out of range, the scope is n:m (which has one sparsity only), or the highest
            sparsity is 0.

    Reference: Frankle & Carbin, "The lottery ticket hypothesis: finding sparse, trainable neural networks", ICLR 2019,
    with 20% per round. Rewinding to an early epoch: Frankle, Dziugaite, Roy & Carbin, "Linear mode connectivity and the
    lottery ticket hypothesis", ICML 2020.

    Cost: One training, and one more after each pruning round. Sparsity 0.95 takes 13 rounds, hence 14 trainings.
    """

    def __init__(self, config, *, fraction: float = 0.2, rewind_epoch: int = 0):
        super().__init__(config)
        if not 0 < fraction < 1:
            raise ValueError(f"pruning_sched: fraction must be in (0, 1), got {fraction:g}")
        if ":" in config.scope:
            raise ValueError(
                f"scope: must be global or uniform with imp (n:m has one sparsity only), got {config.scope}"
            )
        self.rewind_epoch = self.check_rewind_epoch(rewind_epoch)
        self.sparsities = tuple(rounds(config.levels, fraction))
        if not self.sparsities:
            raise ValueError("sparsity: one must be above 0 with imp (else it removes nothing), got 0")
        self.num_phases = len(self.sparsities) + 1

    def next_masks(self, phase, kept, scores, gates):
        ranked = {name: s.masked_fill(~kept[name], -float("inf")) for name, s in scores().items()}
        ranking = masks.rank(list(ranked.values()), self.config.scope, min_kept=self.config.min_kept)
        return dict(zip(ranked, ranking.masks(self.sparsities[phase]), strict=True))


def rounds(levels: tuple[float, ...], fraction: float) -> Iterator[float]:
    """Yield the sparsity after each round, ascending; all levels are met exactly.

    Args:
        levels: Sparsities, ascending from 0.
        fraction: Fraction of the remaining weights to remove per round, approximately.
    """
    for low, high in itertools.pairwise(levels):
        shrink = (1 - high) / (1 - low)
        num = max(1, round(math.log(shrink) / math.log(1 - fraction)))
        yield from (1 - (1 - low) * shrink ** (i / num) for i in range(1, num))
        yield high
