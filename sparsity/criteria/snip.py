from collections.abc import Sequence

from torch import Tensor

from sparsity.criteria._calibration import needs_data
from sparsity.criteria.gradient_magnitude import gradient_magnitude

__all__ = ["snip"]


@needs_data
def snip(weights: list[Tensor], *, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """score = |dL/dc| / sum |dL/dc| at c = 1 in L(c * w), the connection sensitivity; the sum is over all tensors.

    dL/dc_j = w_j * g_j, so on one batch the scores are gradient_magnitude's over one constant: rounding aside, the same
    masks at every level and scope. The method differs in when it is applied: its source scores freshly initialized
    weights (of a variance scaling initialization) and trains what is left, here the weights are those given.
    Source: Lee, Ajanthan & Torr, "SNIP: single-shot network pruning based on connection sensitivity", ICLR 2019.
    weights, gradients, ValueError: see gradient_magnitude.
    Returns new tensors of the same shapes, dimensionless, that sum to 1 (all 0 where every w * g is), without a graph.
    Cost: 1 backward pass, the caller's; gradients and scores, 2 x the weights.
    """
    scores = gradient_magnitude(weights, gradients=gradients)
    total = sum(score.sum().item() for score in scores)
    return [score.div_(total) for score in scores] if total > 0 else scores
