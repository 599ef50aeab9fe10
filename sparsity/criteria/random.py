import torch
from torch import Tensor

from sparsity.criteria._calibration import needs_data

__all__ = ["random"]


@needs_data
def random(weights: list[Tensor], *, generator: torch.Generator) -> list[Tensor]:
    """score ~ U[0, 1), whatever the weight: the control arm that any criterion must beat.

    weights: tensors of any shape, of which only shape and device matter.
    generator: source of the numbers; the same state gives the same scores on any device of the weights.
    Returns float32 tensors of the same shapes on the weights' devices, without a graph.
    Cost: no backward pass; the scores, 1 x the weights.
    """
    draw = [torch.rand(weight.shape, generator=generator, device=generator.device) for weight in weights]
    return [score.to(weight.device) for score, weight in zip(draw, weights, strict=True)]
