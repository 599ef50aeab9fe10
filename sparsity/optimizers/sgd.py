import torch

from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown
from sparsity.optimizers._without_compiler import Optimizer, without_compiler

__all__ = ["SGD"]


class SGD(Optimizer, torch.optim.SGD):
    """Stochastic gradient descent with momentum and coupled weight decay.

        v <- momentum v + g + weight_decay w
        w <- w - lr v

    With nesterov, w <- w - lr (g + weight_decay w + momentum v). `step(closure)` calls the closure once and returns its
    loss; without a closure it uses the gradients that are there.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, >= 0.
        momentum: In [0, 1).
        weight_decay: Added to the gradient as weight_decay w, >= 0.
        nesterov: Whether to use Nesterov momentum, which needs momentum > 0.
        fused: torch's choice of implementation, which changes the speed only.

    Raises:
        ValueError: If an argument is out of its range or unknown.

    Reference:
        `torch.optim.SGD`. The default momentum of 0.9 is that of the WCR paper (arXiv 2511.14282, appendix C).

    Cost:
        1 gradient per step. 1 x the weights of memory (v), none without momentum.
    """

    step = torch.no_grad()(without_compiler(torch.optim.SGD.step))

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
            raise ValueError(f"SGD: momentum must be in [0, 1) (at 1, old gradients never fade), got {momentum}")
        if nesterov and not momentum:
            raise ValueError("SGD: momentum must be > 0 (nesterov looks ahead along it), got 0")
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=fused)

    def add_param_group(self, param_group: dict) -> None:
        group = {**self.defaults, **param_group}
        check_nonnegative("SGD", lr=group["lr"], weight_decay=group["weight_decay"])
        super().add_param_group(param_group)
