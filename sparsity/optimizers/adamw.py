import torch

from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown
from sparsity.optimizers._eager import Eager

__all__ = ["AdamW"]


class AdamW(Eager, torch.optim.AdamW):
    """w <- (1 - lr weight_decay) w - lr m / (sqrt(v) + eps), m and v the bias-corrected means of g and g^2.

    Source: Loshchilov & Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, as torch.optim.AdamW,
    with its weight_decay 0 by default.
    lr, eps, weight_decay: >= 0, the decay decoupled and scaled by lr. betas: two numbers in [0, 1). step(closure) calls
    the closure once and returns its loss. fused: torch's choice of kernel, which changes only the speed.
    Cost: 1 gradient a step; 2 x the weights of memory (m and v).
    ValueError for a negative or unknown argument.
    """

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
