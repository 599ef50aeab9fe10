from collections.abc import Sequence

import torch
from torch import Tensor

from sparsity.criteria._checks import needs_data

__all__ = ["gradient_magnitude"]


@needs_data
def gradient_magnitude(weights: list[Tensor], *, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """Taylor criterion: score = |w g|.

    This is the first-order change of the loss when w is removed.

    Args:
        weights: Tensors of any shape.
        gradients: One tensor per weight, of its shape: the gradient g of the loss.

    Returns:
        New tensors of the same shapes, of at least float32, in units of the loss.

    Raises:
        ValueError: If a gradient is missing or has another shape than its weight.

    Reference:
        Molchanov et al., "Pruning convolutional neural networks for resource efficient inference", ICLR 2017, the
        Taylor criterion for single weights. Up to scale it is SNIP's connection sensitivity (Lee et al., ICLR 2019).

    Cost:
        1 backward pass, made by the caller. 2 x the weights of memory (gradients and scores).
    """
    where = (
        "gradient_magnitude: gradients must be one tensor for each weight, of its shape (call loss.backward() first)"
    )
    if len(gradients) != len(weights):
        raise ValueError(f"{where}, got {len(gradients)} gradients for {len(weights)} weights")
    scores = []
    for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        if gradient is None or gradient.shape != weight.shape:
            got = None if gradient is None else f"shape {tuple(gradient.shape)}"
            raise ValueError(f"{where}, got {got} for weight {i} of shape {tuple(weight.shape)}")
        full = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        scores.append((full * gradient.detach()).abs_())
    return scores
