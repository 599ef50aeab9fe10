from typing import ClassVar

import torch

from sparsity.optimizers._with_base import OptimizerWithBase
from sparsity.ranges import Range

__all__ = ["S2SAM"]


class S2SAM(OptimizerWithBase):
    """Single-step SAM: perturb w along the previous step's gradient.

    w is updated with the gradient g_t at w + e, as in SAM. But e = rho g_{t-1} / |g_{t-1}| is along the gradient of the
    previous step, so a step takes one gradient where SAM takes two. The norm is joint over all parameters that had a
    gradient. The first step has e = 0.

    `step(closure)` calls the closure once, at w + e, and returns its loss. The gradient moves into the optimizer's
    state as "previous_grad": `p.grad` is None after the step, and `zero_grad` does not clear it.

    Args:
        params: Parameters or parameter groups; a group can have its own rho.
        lr: Learning rate of the base.
        rho: L2 radius in units of w, >= 0.
        base: File name of the optimizer that updates w: "sgd" or "adamw".
        **base_arguments: Arguments of the base, such as momentum and weight_decay.

    Raises:
        ValueError: If rho is negative or not finite, a base or an argument is unknown, the closure is missing, or a
            gradient is sparse.

    Reference:
        Ji et al., "A single-step, sharpness-aware minimization is all you need to achieve efficient and accurate sparse
        training", NeurIPS 2024.

    Cost:
        1 gradient per step. The memory of the base, 1 x the weights (g_{t-1}) and, within the step, 2 x the weights (w
        and e).
    """

    # search_spaces/cnn.py: 0.05 to 1; small_cnn.py: 0.02 to 0.5, initial 0.1
    ranges: ClassVar = {"rho": Range(0.02, 1.0, 0.1)}

    def __init__(self, params, lr: float, *, rho: float = 0.05, base: str = "sgd", **base_arguments):
        super().__init__(params, lr, base=base, base_arguments=base_arguments, rho=rho)

    @torch.no_grad()
    def step(self, closure=None):
        evaluate = self.evaluation(closure)
        held = [p for group in self.param_groups for p in group["params"] if "previous_grad" in self.state.get(p, ())]
        with self.displaced({p: self.state[p]["previous_grad"] for p in held} if self.is_on else {}):
            loss = evaluate()
        gradients = self.gradients()
        for p in held:
            del self.state[p]["previous_grad"]  # AdamW initializes its own state only where the state is empty
        self.base.step()
        for p, gradient in gradients.items():
            self.state[p]["previous_grad"], p.grad = gradient, None
        return loss
