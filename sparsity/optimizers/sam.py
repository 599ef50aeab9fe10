import torch

from sparsity.optimizers._perturbed import Perturbed

__all__ = ["SAM"]


class SAM(Perturbed):
    """Sharpness-aware minimization: the base optimizer's update at w, with the gradient taken at w + e.

    e = rho g / |g|, with g the gradient at w and |.| joint over all parameters that have a gradient.
    adaptive: e = rho w^2 g / | |w| g |, its scale per weight, so rho then has no unit (ASAM).
    Source: Foret et al., "Sharpness-aware minimization", ICLR 2021, eqs. 2-3; Kwon et al., "ASAM", ICML 2021, p = 2 and
    T_w = |w| (its eta, added to |w|, is 0 here).
    params, lr: as for the base. rho: >= 0, L2 radius in units of w. base: "sgd" or "adamw", with its arguments.
    step(closure) calls the closure twice, at w and at w + e, and returns the loss at w. What the closure
    differentiates, penalty included, is what perturbs. At rho = 0 it is the base, with one call.
    Cost: 2 gradients a step (1 at rho = 0); the base's memory and, within the step, 2 x the weights (w and e).
    ValueError for rho < 0, an unknown base or argument, no closure, or a sparse gradient.
    """

    def __init__(
        self, params, lr: float, *, rho: float = 0.05, adaptive: bool = False, base: str = "sgd", **base_arguments
    ):
        super().__init__(params, lr, base=base, base_arguments=base_arguments, rho=rho, adaptive=adaptive)

    @torch.no_grad()
    def step(self, closure=None):
        evaluate = self.evaluation(closure)
        loss = evaluate()
        if self.is_on:
            with self.ascended(self.gradients()):
                evaluate()
        self.base.step()
        return loss
