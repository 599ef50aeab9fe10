"""Other ways to add WCR's gradient to the gradients that are there, in PyTorch: what the compiled kernel is measured
beside. Each takes weights, whose `.grad` it adds to, and lam; smooth and eps are WCR's own by default."""

from collections.abc import Callable, Mapping, Sequence
from unittest import mock

import torch
from torch import Tensor

import sparsity
from sparsity import _kernels

__all__ = ["WAYS"]

SMOOTH = EPS = 1e-8
BLOCK = 2**18  # elements: a few temporaries of 1 MiB stay in the cache


def plain(w: Tensor) -> Tensor:
    a = (w * w + SMOOTH).sqrt()
    return 1 / ((a * a).mean() - a.mean() ** 2 + EPS)


def autograd(weights: Sequence[Tensor], lam: float) -> None:
    (lam * sum(plain(w) for w in weights)).backward()


def closed_form(weights: Sequence[Tensor], lam: float) -> None:
    """What runs where there is no compiler."""
    with mock.patch.object(_kernels, "library", return_value=None):
        sparsity.load("regularizers", "wcr")(weights).backward(lam)


@torch.no_grad()
def foreach(weights: Sequence[Tensor], lam: float) -> None:
    magnitudes = torch._foreach_mul(weights, weights)
    torch._foreach_add_(magnitudes, SMOOTH)
    torch._foreach_sqrt_(magnitudes)
    means = [a.mean() for a in magnitudes]
    centred = torch._foreach_sub(magnitudes, means)
    factors = [lam * (-2 / c.numel()) / (c.square().mean() + EPS) ** 2 for c in centred]
    torch._foreach_div_(centred, magnitudes)
    torch._foreach_mul_(centred, factors)
    torch._foreach_addcmul_([w.grad for w in weights], centred, weights)


@torch.no_grad()
def blocks(weights: Sequence[Tensor], lam: float) -> None:
    for weight in weights:
        parts = weight.view(-1).split(BLOCK)
        sums = torch.zeros(2, dtype=torch.float64)
        for w in parts:
            square = (w * w).add_(SMOOTH)
            sums += torch.stack([square.sqrt().sum(dtype=torch.float64), square.sum(dtype=torch.float64)])
        mean, square = (sums / weight.numel()).tolist()
        factor = lam * (-2 / weight.numel()) / (square - mean**2 + EPS) ** 2
        for w, gradient in zip(parts, weight.grad.view(-1).split(BLOCK), strict=True):
            a = (w * w).add_(SMOOTH).sqrt_()
            gradient.addcmul_(a.sub(mean).div_(a), w, value=factor)


def compiled() -> Callable[[Sequence[Tensor], float], None]:
    @torch.compile(dynamic=True)
    def add(w: Tensor, gradient: Tensor, lam: float) -> Tensor:
        a = (w * w + SMOOTH).sqrt()
        centred = a - a.mean()
        factor = lam * (-2 / w.numel()) / (centred.square().mean() + EPS) ** 2
        return gradient.add_(factor * centred / a * w)

    @torch.no_grad()
    def run(weights: Sequence[Tensor], lam: float) -> None:
        for w in weights:
            add(w.detach().view(-1), w.grad.view(-1), lam)

    return run


def kernel(weights: Sequence[Tensor], lam: float) -> None:
    sparsity.load("regularizers", "wcr")(weights).backward(lam)


WAYS: Mapping[str, Callable[[Sequence[Tensor], float], None]] = {
    "plain autograd": autograd,
    "closed form under autograd, in cache-sized blocks": closed_form,
    "multi-tensor (foreach) operations in place": foreach,
    "blocks in place, into the gradients that are there": blocks,
    "torch.compile, dynamic shapes": compiled(),
    "C, one pass for mean and variance, one for the gradient": kernel,
}
