"""Measures that explain how well a network survives pruning."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsity.arguments import whole_number

__all__ = ["hessian_eigenvalue", "layer_statistics"]


def hessian_eigenvalue(
    loss_fn: Callable[[Any], Tensor],
    parameters: Iterable[Tensor],
    batches: Iterable[Any],
    *,
    num_iterations: int = 20,
    generator: torch.Generator,
    parts: Callable[[Any], Sequence[tuple[float, Any]]] | None = None,
) -> float:
    """Return the Hessian's eigenvalue of largest magnitude, with its sign.

    Power iteration: v <- H v / |H v| from a random direction, and the eigenvalue is the last v' H v with |v| = 1. H v
    is a second backward pass, so H is never formed. At a minimum of the loss the result is the largest eigenvalue;
    elsewhere it may be negative. The error falls as (|second| / |first|)^(2 num_iterations); too few iterations
    underestimate the magnitude.

    Args:
        loss_fn: Function from a batch to the loss, a scalar that is differentiable twice; it may contain lam * R().
            Put the model in evaluation mode before, so that BatchNorm's statistics stay.
        parameters: The parameters that H concerns, jointly. They require gradients.
        batches: At least one batch.
        num_iterations: Number of iterations per batch, >= 1.
        generator: Draws the first direction, a new one for each batch.
        parts: Splits a batch into pairs of a weight and a part. The weights sum to 1, and the weighted sum of the
            parts' losses is the loss of the batch. Only one part at a time is then in memory, but each iteration
            computes the loss and its gradient again. A batch of one part is computed as without `parts`.

    Returns:
        The mean eigenvalue, in units of loss / w^2; 0 for a loss without curvature.

    Raises:
        ValueError: If there are no parameters or no batches, num_iterations is not a whole number >= 1, or a loss or
            its second derivative is not finite.

    Reference:
        Yun, Jo & Lee, arXiv 2511.14282, appendix C.5, with 20 iterations on 12 batches of 1024.

    Cost:
        1 + num_iterations backward passes per batch, the graph of the first, and 4 x the parameters of memory. In
        parts: 2 x num_iterations backward passes and as many forward passes as iterations, the graph of one part, and 5
        x the parameters.
    """
    parameters = list(parameters)
    num_iterations = whole_number("hessian_eigenvalue", "num_iterations", num_iterations, 1)
    if not parameters:
        raise ValueError("hessian_eigenvalue: parameters must hold at least one tensor, got none")
    split = parts or (lambda batch: [(1.0, batch)])
    eigenvalues = [_power_iteration(loss_fn, split(batch), parameters, num_iterations, generator) for batch in batches]
    if not eigenvalues:
        raise ValueError("hessian_eigenvalue: batches must hold at least one batch, got none")
    return sum(eigenvalues) / len(eigenvalues)


def layer_statistics(weight: Tensor, mask: Tensor) -> dict[str, float]:
    """Measure how concentrated a weight tensor is, and what a mask keeps of it.

    Args:
        weight: Tensor of any shape with at least one element, before the mask is applied.
        mask: Bool tensor of the same shape, True = kept.

    Returns:
        With a = |w| and n elements, computed in float64:

        - num_weights, num_kept: numbers of elements.
        - abs_mean: mean(a).
        - abs_variance: mean(a^2) - mean(a)^2, the V that WCR enlarges.
        - hoyer: (sum a)^2 / (n sum a^2), in [1/n, 1], lower is sparser; 1 for a tensor of zeros. It is Hoyer-square / n
          and the H in V = (|w|_2^2 / n) (1 - H). Hoyer's own sparsity is (sqrt(n) - sqrt(n H)) / (sqrt(n) - 1).
        - energy_kept: sum of w^2 under the mask / sum of w^2; 0 for a tensor of zeros.

    Raises:
        ValueError: If the weight is empty, or the mask has another shape or is not bool.

    Reference:
        Yun, Jo & Lee, arXiv 2511.14282, equations 1 to 4. Hoyer, "Non-negative matrix factorization with sparseness
        constraints", JMLR 2004.
    """
    if mask.shape != weight.shape or not weight.numel():
        got = f"{tuple(mask.shape)} for {tuple(weight.shape)}"
        raise ValueError(f"layer_statistics: mask must have the shape of a weight with elements, got {got}")
    if mask.dtype is not torch.bool:
        raise ValueError(f"layer_statistics: mask must be bool, True = kept (it selects weights), got {mask.dtype}")
    a = weight.detach().double().abs()
    energy = a.square().sum()
    return {
        "num_weights": a.numel(),
        "num_kept": int(mask.sum()),
        "abs_mean": a.mean().item(),
        "abs_variance": a.var(correction=0).item(),
        "hoyer": (a.sum() ** 2 / (a.numel() * energy)).item() if energy > 0 else 1.0,
        "energy_kept": (a[mask].square().sum() / energy).item() if energy > 0 else 0.0,
    }


@torch.enable_grad()
def _power_iteration(
    loss_fn: Callable[[Any], Tensor],
    parts: Sequence[tuple[float, Any]],
    parameters: list[Tensor],
    num_iterations: int,
    generator: torch.Generator,
) -> float:
    def gradients(weight: float, part: Any) -> Sequence[Tensor]:
        return torch.autograd.grad(weight * loss_fn(part), parameters, create_graph=True, materialize_grads=True)

    whole = gradients(*parts[0]) if len(parts) == 1 else None
    direction = [torch.randn(p.shape, generator=generator, device=generator.device).to(p) for p in parameters]
    eigenvalue = 0.0
    for _ in range(num_iterations):
        norm = _dot(direction, direction) ** 0.5
        if norm == 0:
            return 0.0
        direction = [v / norm for v in direction]
        product = _hessian_product(whole or gradients(*parts[0]), parameters, direction)
        for part in parts[1:]:
            product = list(torch._foreach_add(product, _hessian_product(gradients(*part), parameters, direction)))
        eigenvalue, direction = _dot(direction, product), product
    if not math.isfinite(eigenvalue):
        raise ValueError(f"hessian_eigenvalue: loss must be finite, with its second derivatives, got {eigenvalue}")
    return eigenvalue


def _hessian_product(gradients: Sequence[Tensor], parameters: list[Tensor], v: list[Tensor]) -> list[Tensor]:
    curved = [(g, x) for g, x in zip(gradients, v, strict=True) if g.requires_grad]  # the other gradients are constants
    if not curved:
        return [torch.zeros_like(p) for p in parameters]
    outputs, weights = zip(*curved, strict=True)
    return list(torch.autograd.grad(outputs, parameters, weights, retain_graph=True, materialize_grads=True))


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    widest = [torch.promote_types(x.dtype, torch.float32) for x in a]  # sums of float16 overflow
    return sum((x.to(dtype) * y).sum().item() for x, y, dtype in zip(a, b, widest, strict=True))
