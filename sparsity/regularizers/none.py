"""The control arm: no regularizer."""

import torch

from sparsity.regularizer import Regularizer

__all__ = ["NoRegularizer"]


class NoRegularizer(Regularizer):
    """R(W) = 0, a scalar on the weights' device, so that `loss + lam * R()` needs no case of its own.

    Cost: no extra gradient evaluation and no extra memory.
    """

    def forward(self) -> torch.Tensor:
        return self.penalty(self.weights[0]) if self.weights else super().forward()

    def penalty(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.new_zeros(())
