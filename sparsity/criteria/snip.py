import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsity.criteria._checks import needs_data
from sparsity.criteria.gradient_magnitude import gradient_magnitude

__all__ = ["snip"]


@needs_data
def snip(weights: list[Tensor], *, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Connection sensitivity: score = |dL/dc| / sum |dL/dc| at c = 1 in L(c * w).

    The sum is over all tensors. Since dL/dc_j = w_j g_j, the scores are those of `gradient_magnitude` divided by a
    constant, and lead to the same masks, rounding aside. The method differs in its use: the reference scores freshly
    initialized weights (with variance scaling) and then trains the rest; here the weights are those given.

    Args:
        weights: Tensors of any shape.
        gradients: One tensor per weight, of its shape: the gradient g of the loss.

    Returns:
        New dimensionless tensors of the same shapes, of at least float32, that sum to 1, or all 0 if all w g are 0.

    Raises:
        ValueError: If a gradient is missing or has another shape than its weight, or the sum of all |w g| is not
            finite.

    Reference:
        Lee, Ajanthan & Torr, "SNIP: single-shot network pruning based on connection sensitivity", ICLR 2019.

    Cost:
        1 backward pass, made by the caller. 2 x the weights of memory (gradients and scores).
    """
    scores = gradient_magnitude(weights, gradients=gradients)
    total = sum(score.sum(dtype=torch.float64).item() for score in scores)
    if not math.isfinite(total):
        raise ValueError(f"snip: the sum of all |w g| must be finite (it divides the scores), got {total}")
    return [score.div_(total) for score in scores] if total > 0 else scores
