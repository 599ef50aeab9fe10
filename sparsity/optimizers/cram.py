from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sparsity.arguments import whole_number
from sparsity.optimizers._magnitude_masks import keep_largest, parse_scope, sparse_weights
from sparsity.optimizers._with_base import OptimizerWithBase, add_scaled, joint_norm
from sparsity.ranges import Range

__all__ = ["CrAM"]


class CrAM(OptimizerWithBase):
    """Compression-aware minimization: also takes a gradient at pruned weights.

    The base optimizer updates w with g0 + g1 (CrAM+), or with g1 alone if plus=False:

        g0 = gradient at w
        w' = TopK_s(w + rho g0)
        g1 = gradient at w', times the mask of w'

    TopK_s keeps the fraction 1 - s of the weights with the largest magnitudes and sets the others to 0. Each step draws
    its s from `sparsities`.

    With a gated regularizer (`sparsity.gates.Gated`), w is the parameter theta. TopK_s ranks |theta|, not the effective
    weight |theta z|, and with `WeightFactorization` the first factor.

    `step(closure)` calls the closure at w and again at w', and returns the loss at w. Both gradients contain all that
    the closure differentiates, a penalty included. rho = 0 does not turn the compression off: w' is then TopK_s(w).

    Args:
        params: Parameters or parameter groups; a group can have its own rho. Tensors of more than one dimension are
            compressed, except those of a group with `dense` = True, which is for position embeddings. These, biases,
            normalization scales and gates move to w + rho g0 and stay dense.
        lr: Learning rate of the base.
        rho: Multiplies the gradient g0, >= 0, in units of w^2 / loss.
        sparsities: One or several fractions removed, each in [0, 1), drawn with equal probability. Text such as
            "0.5,0.7,0.9" works too.
        plus: Whether to add g0 to g1.
        scope: "global" compares magnitudes over all tensors of all groups, "uniform" within each tensor. "n:m", such as
            "2:4", keeps n of every m consecutive input channels and ignores `sparsities` (see
            `sparsity.masks.n_of_m`; a tensor whose input channels m does not divide stays dense). Of several patterns,
            such as "2:4,4:8", each step draws one.
        sparse_grad: Whether to multiply g1 by the mask.
        normalize: Whether to divide g0 by its norm, joint over all parameters that have a gradient. rho is then an L2
            radius in units of w, as for SAM.
        seed: Seed of the draws, >= 0. A draw depends on the seed and the number of the step only.
        base: File name of the optimizer that updates w: "sgd" or "adamw".
        **base_arguments: Arguments of the base, such as momentum and weight_decay.

    Raises:
        ValueError: If sparsities is empty or has a value outside [0, 1), scope is unknown or has n > m, rho is negative
            or not finite, seed is negative or not a whole number, a base or an argument is unknown, a group has an
            argument that concerns all groups, the closure is missing, or a gradient is sparse.

    Reference:
        Peste et al., "CrAM: a compression-aware minimizer", ICLR 2023, with the options of the authors' code.
        Departures: exactly the given fraction is pruned (the authors' percentile threshold may prune more or less), all
        groups are ranked together (the authors rank each group), and "uniform" compresses the first and the last layer
        too.

    Cost:
        2 gradients and a top-k selection per step. Memory: that of the base optimizer (`base`). During a step, also 4 x
        the weights while it selects the weights to keep, and 2.25 x (a copy of the weights, the first gradient, masks)
        during the second gradient.
    """

    makes_sparse = True
    shared = ("sparsities", "plus", "scope", "sparse_grad", "normalize", "seed")
    ranges: ClassVar = {"rho": Range(0.01, 0.2, 0.05)}  # search_spaces/cnn.py and small_cnn.py

    def __init__(
        self,
        params,
        lr: float,
        *,
        rho: float = 0.05,
        sparsities: Sequence[float] | float | str = (0.5, 0.7, 0.9),
        plus: bool = True,
        scope: str = "global",
        sparse_grad: bool = True,
        normalize: bool = False,
        seed: int = 0,
        base: str = "sgd",
        **base_arguments,
    ):
        try:
            parse_scope(scope)
        except ValueError as error:
            raise ValueError(f"CrAM: {error}") from None
        super().__init__(
            params,
            lr,
            base=base,
            base_arguments=base_arguments,
            rho=rho,
            sparsities=_numbers(sparsities),
            plus=plus,
            scope=scope,
            sparse_grad=sparse_grad,
            normalize=normalize,
            seed=whole_number("CrAM", "seed", seed, 0),
            num_steps=0,
        )

    @torch.no_grad()
    def step(self, closure=None):
        evaluate = self.evaluation(closure)
        loss = evaluate()
        g0 = self.gradients()
        for p in g0:
            p.grad = None  # so that a closure that clears gradients in place leaves g0
        shared = self.param_groups[0]  # for the arguments that concern all groups together
        with self.displaced(dict(g0)):
            masks = self._masks([p for group, params, _ in self.by_group(g0) for p in sparse_weights(params, group)])
            for p, mask in masks.items():
                p.mul_(mask)  # TopK_s
            evaluate()
        if shared["sparse_grad"]:
            for p, mask in masks.items():
                if p.grad is not None:
                    p.grad.mul_(mask)
        if shared["plus"]:
            for p, gradient in g0.items():
                p.grad = gradient if p.grad is None else gradient.add_(p.grad)
        self.base.step()
        shared["num_steps"] += 1
        return loss

    def displace(self, vectors: dict[Tensor, Tensor]) -> None:
        norm = joint_norm(vectors.values()) if self.param_groups[0]["normalize"] else 1.0
        for group, w, g in self.by_group(vectors):
            add_scaled(w, g, group["rho"] / norm)  # w + rho g0

    def _masks(self, weights: list[Tensor]) -> dict[Tensor, Tensor]:
        """Masks of the largest weights, 1 = kept, at a sparsity drawn for this step.

        They are uint8: on a CPU, multiplying by bytes is 3 times as fast as masked_fill_.
        """
        if not weights:
            return {}
        masks = keep_largest(weights, *self._draw())
        return {p: mask.view(torch.uint8) for p, mask in zip(weights, masks, strict=True)}

    def _draw(self) -> tuple[str, float | None]:
        """Scope and sparsity of this step."""
        shared = self.param_groups[0]
        random = np.random.default_rng((shared["seed"], shared["num_steps"]))
        if patterns := parse_scope(shared["scope"]):
            n, m = patterns[random.integers(len(patterns))]
            return f"{n}:{m}", None
        return shared["scope"], shared["sparsities"][random.integers(len(shared["sparsities"]))]


def _numbers(sparsities: Sequence[float] | float | str) -> tuple[float, ...]:
    """Convert a number, a sequence or text such as "0.5,0.7" to a tuple."""
    given: Any = sparsities.split(",") if isinstance(sparsities, str) and sparsities.strip() else sparsities
    try:
        numbers = (float(given),) if isinstance(given, int | float) else tuple(float(part) for part in given)
    except (TypeError, ValueError):
        raise ValueError(f"CrAM: sparsities must be numbers (such as 0.5,0.7,0.9), got {sparsities!r}") from None
    if not numbers:
        raise ValueError(f"CrAM: sparsities must hold at least one (one is drawn each step), got {sparsities!r}")
    for number in numbers:
        if not 0 <= number < 1:
            raise ValueError(f"CrAM: sparsities must be in [0, 1), the fraction removed, got {number}")
    return numbers
