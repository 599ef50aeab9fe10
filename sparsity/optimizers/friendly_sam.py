from typing import ClassVar

import torch

from sparsity.optimizers._arguments import check_nonnegative
from sparsity.optimizers._with_base import OptimizerWithBase
from sparsity.ranges import Range

__all__ = ["FriendlySAM"]


class FriendlySAM(OptimizerWithBase):
    """Friendly SAM: perturb w along the part of the gradient that is batch noise.

    w is updated with the gradient at w + e, as in SAM, but e leaves out the estimated gradient of the whole data, a
    running mean m of the gradients g at w:

        d = g - sigma m
        e = rho d / |d|
        m <- beta m + (1 - beta) g

    At the first step d = g and m <- g. The norm is joint over all parameters that have a gradient.

    `step(closure)` calls the closure at w and again at w + e, and returns the loss at w. The gradients contain all that
    the closure differentiates, a penalty included. If rho is 0, the closure is called once and the step is the base's,
    bit for bit. If sigma is 0, the step is SAM's.

    Args:
        params: Parameters or parameter groups; a group can have its own rho, sigma and beta.
        lr: Learning rate of the base.
        rho: L2 radius in units of w, >= 0.
        sigma: Multiple of the mean gradient that is subtracted, >= 0; 1 in the reference.
        beta: Decay of the mean gradient, in [0, 1]; lambda in the reference.
        base: File name of the optimizer that updates w: "sgd" or "adamw".
        **base_arguments: Arguments of the base, such as momentum and weight_decay.

    Raises:
        ValueError: If an argument is out of its range, a base or an argument is unknown, the closure is missing, or a
            gradient is sparse.

    Reference:
        Li, Zhou, He, Cheng & Huang, "Friendly sharpness-aware minimization", CVPR 2024, arXiv 2403.12350, as in the
        authors' code (github.com/nblt/F-SAM). The paper updates m before it subtracts it. With sigma = 1, both d are
        parallel: g - (beta m + (1 - beta) g) = beta (g - m).

    Cost:
        2 gradients per step (1 if rho is 0). The memory of the base, 1 x the weights (m) and, within the step, 2 x the
        weights (w, and d or g).
    """

    ranges: ClassVar = {"rho": Range(0.02, 1.0, 0.1)}  # as SAM's

    def __init__(
        self,
        params,
        lr: float,
        *,
        rho: float = 0.05,
        sigma: float = 1.0,
        beta: float = 0.9,
        base: str = "sgd",
        **base_arguments,
    ):
        super().__init__(params, lr, base=base, base_arguments=base_arguments, rho=rho, sigma=sigma, beta=beta)

    def add_param_group(self, param_group: dict) -> None:
        group = {**self.defaults, **param_group}
        check_nonnegative("FriendlySAM", sigma=group["sigma"])
        if not 0 <= group["beta"] <= 1:
            raise ValueError(f"FriendlySAM: beta must be in [0, 1] (the decay of a mean), got {group['beta']}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure=None):
        evaluate = self.evaluation(closure)
        loss = evaluate()
        if self.is_on and (groups := self.by_group(self.gradients())):
            for _, params, _ in groups:
                for p in params:
                    p.grad = None  # so that a closure that clears gradients in place leaves g
            noise = {
                p: g.sub(self.state[p]["mean_grad"], alpha=group["sigma"]) if "mean_grad" in self.state[p] else g
                for group, params, gradients in groups
                for p, g in zip(params, gradients, strict=True)
            }
            with self.displaced(noise):
                evaluate()
            for group, params, gradients in groups:
                for p, g in zip(params, gradients, strict=True):
                    self.state[p].setdefault("mean_grad", g).lerp_(g, 1 - group["beta"])
        self.base_step("mean_grad")
        return loss
