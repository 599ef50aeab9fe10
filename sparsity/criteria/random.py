import torch
from torch import Tensor

from sparsity.criteria._checks import needs_data

__all__ = ["random"]


@needs_data
def random(weights: list[Tensor], *, generator: torch.Generator) -> list[Tensor]:
    """Random scores, score ~ U[0, 1): the control that any criterion must beat.

    Args:
        weights: Tensors of any shape. Only their shapes and devices matter.
        generator: Source of the numbers. The same state gives the same scores, whatever the weights' device.

    Returns:
        float32 tensors of the weights' shapes on their devices.

    Cost:
        No backward pass. 1 x the weights of memory.
    """
    draw = [torch.rand(weight.shape, generator=generator, device=generator.device) for weight in weights]
    return [score.to(weight.device) for score, weight in zip(draw, weights, strict=True)]
