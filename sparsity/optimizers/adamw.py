import torch

from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown
from sparsity.optimizers._without_compiler import Optimizer, without_compiler

__all__ = ["AdamW"]


class AdamW(Optimizer, torch.optim.AdamW):
    """Adam with decoupled weight decay.

        w <- (1 - lr weight_decay) w - lr m / (sqrt(v) + eps)

    m and v are the bias-corrected exponential means of g and g^2. `step(closure)` calls the closure once and returns
    its loss; without a closure it uses the gradients that are there.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, >= 0.
        betas: Decay rates of m and v, both in [0, 1).
        eps: Added to sqrt(v), >= 0, in units of the gradient.
        weight_decay: Decoupled from the gradient and scaled by lr, >= 0. The default is 0, not torch's 0.01.
        fused: torch's choice of implementation, which changes the speed only.

    Raises:
        ValueError: If an argument is out of its range or unknown.

    Reference:
        Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, as implemented by
        `torch.optim.AdamW`.

    Cost:
        1 gradient per step. 2 x the weights of memory (m and v).
    """

    step = torch.no_grad()(without_compiler(torch.optim.AdamW.step))

    def __init__(
        self,
        params,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        fused: bool | None = None,
        **unknown,
    ):
        refuse_unknown("AdamW", unknown, keywords(AdamW))
        check_nonnegative("AdamW", lr=lr, eps=eps, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas must be two numbers in [0, 1), got {betas}")
        super().__init__(params, lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused)

    def add_param_group(self, param_group: dict) -> None:
        group = {**self.defaults, **param_group}
        check_nonnegative("AdamW", lr=group["lr"], weight_decay=group["weight_decay"])
        super().add_param_group(param_group)
