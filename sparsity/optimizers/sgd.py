import torch

from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown
from sparsity.optimizers._eager import Eager

__all__ = ["SGD"]


class SGD(Eager, torch.optim.SGD):
    """v <- momentum v + (g + weight_decay w); w <- w - lr v (nesterov: w - lr (g + weight_decay w + momentum v)).

    Source: torch.optim.SGD, with momentum 0.9 by default as in the WCR paper's runs (arXiv 2511.14282, appendix C).
    lr, weight_decay: >= 0, the decay coupled, i.e. added to the gradient. momentum: in [0, 1). step(closure) calls the
    closure once and returns its loss. fused: torch's choice of kernel, which changes only the speed.
    Cost: 1 gradient a step; 1 x the weights of memory (v; 0 without momentum).
    ValueError for a negative or unknown argument.
    """

    def __init__(
        self,
        params,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        fused: bool | None = None,
        **unknown,
    ):
        refuse_unknown("SGD", unknown, keywords(SGD))
        check_nonnegative("SGD", lr=lr, weight_decay=weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: momentum must be in [0, 1) (at 1 nothing is ever forgotten), got {momentum}")
        if nesterov and not momentum:
            raise ValueError("SGD: momentum must be > 0 (nesterov looks ahead along it), got 0")
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)
