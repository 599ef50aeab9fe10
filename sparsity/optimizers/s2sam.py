import torch

from sparsity.optimizers._perturbed import Perturbed

__all__ = ["S2SAM"]


class S2SAM(Perturbed):
    """Single-step SAM: the base optimizer's update at w, with the gradient g_t taken at w + e.

    e = rho g_{t-1} / |g_{t-1}|, along the previous step's gradient, |.| joint over all parameters that had one; the
    first step has e = 0. So one gradient a step, where SAM takes two.
    Source: Ji et al., "A single-step, sharpness-aware minimization is all you need to achieve efficient and accurate
    sparse training", NeurIPS 2024 (S2-SAM).
    params, lr: as for the base. rho: >= 0, L2 radius in units of w. base: "sgd" or "adamw", with its arguments.
    step(closure) calls the closure once and returns its loss, which is the one at w + e. The gradient moves into the
    state as "previous_grad" (so p.grad is None after the step) and outlives zero_grad.
    Cost: 1 gradient a step; the base's memory, 1 x the weights (g_{t-1}) and, within the step, 2 x (w and e).
    ValueError for rho < 0, an unknown base or argument, no closure, or a sparse gradient.
    """

    def __init__(self, params, lr: float, *, rho: float = 0.05, base: str = "sgd", **base_arguments):
        super().__init__(params, lr, base=base, base_arguments=base_arguments, rho=rho)

    @torch.no_grad()
    def step(self, closure=None):
        evaluate = self.evaluation(closure)
        params = [p for group in self.param_groups for p in group["params"]]
        previous = {p: self.state[p]["previous_grad"] for p in params if "previous_grad" in self.state.get(p, {})}
        with self.ascended(previous):
            loss = evaluate()
        gradients = self.gradients()
        for p in previous:
            del self.state[p]["previous_grad"]  # AdamW takes a state that is not empty for one that it has filled
        self.base.step()
        for p, gradient in gradients.items():
            self.state[p]["previous_grad"], p.grad = gradient, None
        return loss
