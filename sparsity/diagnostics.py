"""What explains how well a network survives pruning: its curvature, and how its weights are spread."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["hessian_eigenvalue", "layer_statistics"]


def hessian_eigenvalue(
    loss_fn: Callable[[Any], Tensor],
    parameters: Iterable[Tensor],
    batches: Iterable[Any],
    *,
    num_iterations: int = 20,
    generator: torch.Generator,
) -> float:
    """The Hessian's eigenvalue of largest magnitude, with its sign, by power iteration; the mean over batches.

    v <- H v / |H v|, from a random direction; the result of a batch is the last v' H v, |v| = 1. At a minimum it is the
    largest eigenvalue; elsewhere it may be negative. Too few iterations give a smaller magnitude: the error falls as
    (|second| / |first|)^(2 num_iterations). H v is a second backward pass, so H is never formed.
    Source: Yun, Jo & Lee, arXiv 2511.14282, appendix C.5: 20 iterations, 12 batches of 1024.
    loss_fn: a batch -> the loss, a differentiable scalar, twice differentiable: our closed-form regularizers are, so it
    may hold lam * R. The model is in the mode the caller left it in (evaluation: BatchNorm's statistics stay).
    parameters: those that H is of, jointly, each requiring gradients. generator: draws the first direction, a new one
    for every batch.
    Returns a number in units of loss / w^2, 0 for a loss without curvature.
    ValueError if there are no parameters or batches, num_iterations < 1, or a loss or H v is not finite.
    Cost: for each batch 1 + num_iterations backward passes, and the graph of the first; 4 x the parameters.
    """
    parameters = list(parameters)
    if num_iterations < 1 or num_iterations != int(num_iterations):
        raise ValueError(f"hessian_eigenvalue: num_iterations must be a whole number >= 1, got {num_iterations}")
    if not parameters:
        raise ValueError("hessian_eigenvalue: parameters must hold at least one tensor, got none")
    eigenvalues = [_power_iteration(loss_fn, batch, parameters, num_iterations, generator) for batch in batches]
    if not eigenvalues:
        raise ValueError("hessian_eigenvalue: batches must hold at least one batch, got none")
    return sum(eigenvalues) / len(eigenvalues)


def layer_statistics(weight: Tensor, mask: Tensor) -> dict[str, float]:
    """How concentrated a weight tensor is, and what a mask keeps of it; a = |w|, n the number of elements.

    abs_mean = mean(a); abs_variance = mean(a^2) - mean(a)^2, the V that WCR enlarges.
    hoyer = (sum a)^2 / (n sum a^2), in [1/n, 1], lower is sparser; 1 for a tensor of zeros. It is the H of V =
    (|w|_2^2 / n) (1 - H), Hoyer-Square over n; Hoyer's own sparsity is (sqrt(n) - sqrt(n H)) / (sqrt(n) - 1).
    energy_kept = sum of w^2 under the mask / sum of w^2; 0 for a tensor of zeros.
    Source: Yun, Jo & Lee, arXiv 2511.14282, eqs. 1-4; Hoyer, "Non-negative matrix factorization with sparseness
    constraints", JMLR 2004.
    weight: any shape with at least one element, before the mask. mask: bool, of its shape, True = kept.
    Returns numbers computed in float64 by those names, and the counts num_weights and num_kept.
    ValueError for an empty weight or a mask of another shape.
    """
    if mask.shape != weight.shape or not weight.numel():
        got = f"{tuple(mask.shape)} for {tuple(weight.shape)}"
        raise ValueError(f"layer_statistics: mask must have the shape of a weight with elements, got {got}")
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
    batch: Any,
    parameters: list[Tensor],
    num_iterations: int,
    generator: torch.Generator,
) -> float:
    gradients = torch.autograd.grad(loss_fn(batch), parameters, create_graph=True, materialize_grads=True)
    direction = [torch.randn(p.shape, generator=generator, device=generator.device).to(p) for p in parameters]
    eigenvalue = 0.0
    for _ in range(num_iterations):
        norm = _dot(direction, direction) ** 0.5
        if norm == 0:
            return 0.0
        direction = [v / norm for v in direction]
        product = _hessian_product(gradients, parameters, direction)
        eigenvalue, direction = _dot(direction, product), product
    if not math.isfinite(eigenvalue):
        raise ValueError(f"hessian_eigenvalue: loss must be finite, with its second derivatives, got {eigenvalue}")
    return eigenvalue


def _hessian_product(gradients: Sequence[Tensor], parameters: list[Tensor], v: list[Tensor]) -> list[Tensor]:
    curved = [(g, x) for g, x in zip(gradients, v, strict=True) if g.requires_grad]  # others are constants
    if not curved:
        return [torch.zeros_like(p) for p in parameters]
    outputs, weights = zip(*curved, strict=True)
    return list(torch.autograd.grad(outputs, parameters, weights, retain_graph=True, materialize_grads=True))


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum((x * y).sum().item() for x, y in zip(a, b, strict=True))
