from typing import ClassVar

import torch
from torch import Tensor
from torch import _foreach_add_ as add
from torch import _foreach_mul as mul

from sparsity.optimizers._with_base import OptimizerWithBase, add_scaled, joint_norm, widened
from sparsity.ranges import Range

__all__ = ["SAM"]


class SAM(OptimizerWithBase):
    """Sharpness-aware minimization: update w with the gradient at w + e.

    e = rho g / |g|, where g is the gradient at w. The norm is joint over all parameters that have a gradient. With
    `adaptive` (ASAM), e = rho w^2 g / | |w| g |: each weight has its own scale, so rho has no unit.

    `step(closure)` calls the closure at w and again at w + e, and returns the loss at w. The gradients contain all that
    the closure differentiates, a penalty included. If rho is 0, the closure is called once and the step is the base's,
    bit for bit.

    Args:
        params: Parameters or parameter groups; a group can have its own rho and adaptive.
        lr: Learning rate of the base.
        rho: L2 radius in units of w, >= 0.
        adaptive: Whether to use ASAM's e. The best rho is then larger, about 0.5 to 2.
        base: File name of the optimizer that updates w: "sgd" or "adamw".
        **base_arguments: Arguments of the base, such as momentum and weight_decay.

    Raises:
        ValueError: If rho is negative or not finite, a base or an argument is unknown, the closure is missing, or a
            gradient is sparse.

    Reference:
        Foret, Kleiner, Mobahi & Neyshabur, "Sharpness-aware minimization for efficiently improving generalization",
        ICLR 2021, equations 2 and 3. Kwon et al., "ASAM", ICML 2021, with p = 2, T_w = |w| and eta = 0.

    Cost:
        2 gradients per step (1 if rho is 0). The memory of the base and, within the step, 2 x the weights (w and e).
    """

    # search_spaces/cnn.py: 0.05 to 1; small_cnn.py: 0.02 to 0.5, initial 0.1
    ranges: ClassVar = {"rho": Range(0.02, 1.0, 0.1)}

    def __init__(
        self, params, lr: float, *, rho: float = 0.05, adaptive: bool = False, base: str = "sgd", **base_arguments
    ):
        super().__init__(params, lr, base=base, base_arguments=base_arguments, rho=rho, adaptive=adaptive)

    @torch.no_grad()
    def step(self, closure=None):
        evaluate = self.evaluation(closure)
        loss = evaluate()
        if self.is_on and (gradients := self.gradients()):
            with self.displaced(gradients):
                evaluate()
        self.base.step()
        return loss

    def displace(self, vectors: dict[Tensor, Tensor]) -> None:
        groups = self.by_group(vectors)
        norm = joint_norm(x for group, w, g in groups for x in (mul(widened(g), w) if group["adaptive"] else g))
        for group, w, g in groups:
            if group["adaptive"]:
                add(w, mul(mul(mul(widened(g), w), group["rho"] / norm), w))  # e = rho w^2 g / | |w| g |
            else:
                add_scaled(w, g, group["rho"] / norm)  # e = rho g / |g|
