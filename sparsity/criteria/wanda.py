from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sparsity.criteria._checks import needs_data
from sparsity.criteria._input_norms import TokenMask, input_norms

__all__ = ["wanda"]


@needs_data
def wanda(
    weights: list[Tensor],
    *,
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Tensor],
    token_mask: TokenMask | None = None,
) -> list[Tensor]:
    """Wanda: score = |w_ij| |x_j|, magnitude times the norm of the weight's input.

    |x_j| is the L2 norm of the layer's input feature j over all samples and positions. |w_ij| |x_j| is then the L2 norm
    of the change of output i when w_ij is removed. The reference compares the weights of one output row, which is scope
    "row". The scopes "uniform" and "global" also compare rows and layers.

    Convolutions, which the reference does not cover, are the same matrix product on patches. Column j is a channel at a
    kernel position, and |x_j| is over all samples and output positions, padding included. A layer with more positions
    has larger norms, so prefer "row" or "uniform" to "global".

    Args:
        weights: Weights of nn.Linear and nn.Conv2d layers.
        model: The model in evaluation mode.
        batches: Calibration batches. They go through the model one after the other.
        forward: Function (model, batch) -> outputs.
        token_mask: Function batch -> bool tensor (N, T), True = token, False = padding, which is not counted; or None.

    Returns:
        New tensors of the same shapes, >= 0, of at least float32, in units of the layer's output.

    Raises:
        ValueError: If data is missing, a weight is not that of such a layer, a layer is not called, a token mask is not
            bool, a batch does not fit the model, or there are no batches.

    Reference:
        Sun, Liu, Bair & Kolter, "A simple and effective pruning approach for large language models", ICLR 2024, arXiv
        2306.11695, equation 1. Departure: all layers are scored on the inputs of the dense network. The reference
        prunes block by block, so its later blocks see the outputs of pruned ones.

    Cost:
        No backward pass; one forward pass of each batch. 1 x the weights of memory and, for one tensor at a time, 1 x
        the tensor.
    """
    norms = input_norms("wanda", weights, model, batches, forward, token_mask)
    with torch.no_grad():
        return [
            (weight.abs().reshape(len(norm), -1, norm.shape[-1]) * norm).view(weight.shape)
            for weight, norm in zip(weights, norms, strict=True)
        ]
