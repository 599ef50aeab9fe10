import torch

from sparsity import masks
from trainables.pruning_schedule import PruningSchedule

__all__ = ["ConcaveMaskLottery"]


class ConcaveMaskLottery(PruningSchedule):
    """Train a relaxed mask, remove the weights it closes, rewind and retrain.

    The mask m and its penalty are those of the regularizer `concave_mask` (r = log, or l1 as a control). A dense
    training comes first. It gives the accuracy to compare with and the early checkpoint. Each round then trains twice:
    with the mask, to decide what is removed, and without mask and penalty, so that the network is comparable with one
    of `imp` at the same sparsity.

    Args:
        config: The trial's configuration.
        select: "threshold" removes weights with m < alpha, as in the paper, so that the mask decides how many remain.
            Each sparsity of the configuration reports the first network that is at least as sparse; if none is, the
            last network is pruned further without retraining. Weights without a gate, such as frozen ones, count as
            m = 1. "rank" has a round for each sparsity of the configuration
            and removes the weights with the lowest m down to it, by |w| where m is equal.
        alpha: Threshold of m, in (0, 1).
        rounds: Number of rounds, at least 1, for "threshold".
        rewind_epoch: See `PruningSchedule`.

    Raises:
        ValueError: If an argument is out of range, the regularizer is another, lam is 0 (nothing would close the mask),
            or the scope is n:m with select "threshold".

    Reference: Fracastoro et al., "Playing the lottery with concave regularizers for sparse trainable neural networks",
    2025, arXiv 2501.11135.

    Cost: 2 x rounds + 1 trainings.
    """

    def __init__(
        self, config, *, select: str = "threshold", alpha: float = 0.1, rounds: int = 3, rewind_epoch: int = 0
    ):
        super().__init__(config)
        if select not in ("threshold", "rank"):
            raise ValueError(f"pruning_sched: select must be one of threshold, rank, got {select!r}")
        if not 0 < alpha < 1:
            raise ValueError(f"pruning_sched: alpha must be in (0, 1) (a value of the mask), got {alpha:g}")
        if rounds < 1 or rounds != int(rounds):
            raise ValueError(f"pruning_sched: rounds must be a whole number >= 1, got {rounds:g}")
        if config.regularizer != "concave_mask" or config.lam == 0:
            raise ValueError(
                "pruning_schedule: must have the regularizer concave_mask and lam > 0 with concave_mask (they train "
                f"the mask), got {config.regularizer} with lam {config.lam:g}"
            )
        if ":" in config.scope and select == "threshold":
            raise ValueError(
                f"scope: must be global, uniform or row with select=threshold (a threshold makes no n:m pattern), got "
                f"{config.scope}"
            )
        self.select, self.alpha = select, alpha
        self.rewind_epoch = self.check_rewind_epoch(rewind_epoch)
        self.num_phases = 2 * (int(rounds) if select == "threshold" else len(config.levels) - 1) + 1

    def regularized(self, phase):
        return phase % 2 == 1

    def is_ticket(self, phase):
        return phase % 2 == 0

    def next_masks(self, phase, kept, scores, gates):
        if not self.regularized(phase):
            return dict(kept)
        ungated = {name: torch.ones_like(mask, dtype=torch.float32) for name, mask in kept.items()}
        m = ungated | dict(gates())
        if self.select == "threshold":
            return {name: mask & (m[name] >= self.alpha) for name, mask in kept.items()}
        magnitudes = {name: score.abs() for name, score in scores().items()}
        highest = max(float(values.max()) for values in magnitudes.values()) or 1.0
        ranked = [
            (m[name].double() + 1e-9 * magnitudes[name].double() / highest).masked_fill(~mask, -torch.inf)
            for name, mask in kept.items()
        ]
        level = self.config.levels[(phase + 1) // 2]
        cut = masks.rank(ranked, self.config.scope, min_kept=self.config.min_kept).masks(level)
        return dict(zip(kept, cut, strict=True))
