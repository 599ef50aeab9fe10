import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparsity.criteria._checks import needs_data
from sparsity.criteria._input_norms import TokenMask, input_norms

__all__ = ["ria"]


@needs_data
def ria(
    weights: list[Tensor],
    *,
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Tensor],
    token_mask: TokenMask | None = None,
    a: float = 0.5,
) -> list[Tensor]:
    """RIA: a weight's share of its row and of its column, times |x_j|^a.

        score_ij = (|w_ij| / sum_k |w_ik| + |w_ij| / sum_k |w_kj|) |x_j|^a

    The first sum is over row i (the weights of an output), the second over column j (those of an input feature). Whole
    rows and columns of small weights are therefore not removed as by `magnitude` and `wanda`. |x_j| is as in `wanda`,
    and so are convolutions; with groups, a column is within its group. The share of a row or column of zeros is 0. The
    reference compares all weights of a layer, which is scope "uniform".

    Args:
        weights: Weights of nn.Linear and nn.Conv2d layers.
        model: The model in evaluation mode.
        batches: Calibration batches. They go through the model one after the other.
        forward: Function (model, batch) -> outputs.
        token_mask: Function batch -> bool tensor (N, T), True = token, False = padding, which is not counted; or None.
        a: Exponent of the input's norm, >= 0. With 0 the score is the relative importance, which needs no data.

    Returns:
        New tensors of the same shapes, >= 0, of at least float32.

    Raises:
        ValueError: If a is negative or not finite, data is missing, a weight is not that of such a layer, a layer is
            not called, a token mask is not bool, a batch does not fit the model, or there are no batches.

    Reference:
        Zhang, Bai, Lin, Zhao, Hou & Cannistraci, "Plug-and-play: an efficient post-training pruning method for large
        language models", ICLR 2024 (relative importance and activations), without its channel permutation for N:M. The
        default of `a` is that of the authors' code. Departure: as in `wanda`.

    Cost:
        No backward pass; one forward pass of each batch. 1 x the weights of memory and, for one tensor at a time, 1 x
        the tensor.
    """
    if not 0 <= a < math.inf:
        raise ValueError(f"ria: a must be >= 0 and finite (an exponent), got {a}")
    norms = input_norms("ria", weights, model, batches, forward, token_mask)
    with torch.no_grad():
        return [_scores(weight, norm**a) for weight, norm in zip(weights, norms, strict=True)]


def _scores(weight: Tensor, factor: Tensor) -> Tensor:
    magnitudes = weight.to(factor.dtype).abs().reshape(len(factor), -1, factor.shape[-1])  # (groups, rows, columns)
    smallest = torch.finfo(factor.dtype).tiny
    rows, columns = (magnitudes.sum(dim, keepdim=True).clamp_(min=smallest) for dim in (2, 1))
    return (magnitudes / rows).addcdiv_(magnitudes, columns).mul_(factor).view(weight.shape)
