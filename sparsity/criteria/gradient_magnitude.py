from collections.abc import Sequence

from torch import Tensor

from sparsity.criteria._calibration import needs_data

__all__ = ["gradient_magnitude"]


@needs_data
def gradient_magnitude(weights: list[Tensor], *, gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """score = |w * g|, the first-order change of the loss when w is removed, in units of the loss.

    Source: Molchanov et al., "Pruning convolutional neural networks for resource efficient inference", ICLR 2017,
    the Taylor criterion, of single weights; up to scale SNIP's connection sensitivity (Lee et al., ICLR 2019).
    weights: tensors of any shape. gradients: one for each weight, of its shape, of the loss that counts.
    Returns new tensors of the same shapes, without a graph.
    ValueError if a gradient is missing or has another shape than its weight.
    Cost: 1 backward pass, the caller's; gradients and scores, 2 x the weights.
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
        scores.append((weight.detach() * gradient.detach()).abs_())
    return scores
