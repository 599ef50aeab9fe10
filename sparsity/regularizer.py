"""Base class of the regularizers."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from sparsity.ranges import Range

__all__ = ["Regularizer"]


class Regularizer(torch.nn.Module):
    """R(W): the sum of `penalty(weight)` over weight tensors.

    R is unscaled: the loss is the task's loss + lam * R(). A subclass defines `penalty(weight)` in plain PyTorch.
    Faster base class for penalties with a known gradient: `sparsity.closed_form.ClosedForm`. Base class for gates on
    the weights: `sparsity.gates.Gated`.

    The weights are held, not registered: `parameters()`, `state_dict()` and `to()` concern only gates that a subclass
    owns. A checkpoint needs the state_dict of the model and of the regularizer.

    A training loop calls `initialize`, `attach` and `take_decay` once, in this order, before it builds the optimizer;
    in each step `backward`, and `project` after the optimizer's step; and `fold` on a model to evaluate it without
    gates. Here these hooks do nothing. After `attach`, the trained parameters are those of the model and of the
    regularizer, each once, since gates belong to both:

        trained = list(dict.fromkeys(p for p in (*model.parameters(), *R.parameters()) if p.requires_grad))

    Args:
        weights: Floating-point tensors of any shape with at least one element, each once. The caller should leave out
            biases and normalization scales. The list may be empty; R() is then 0.

    Attributes:
        lam_range: Search range of lam. A search space overrides it. None where there is nothing to search.
        gate_lr: Learning rate of the gates, of a regularizer with gates; None for that of the weights.

    Raises:
        ValueError: If weights is a single tensor, contains anything but floating-point tensors with elements, or
            contains a tensor twice.
    """

    lam_range: ClassVar[Range | None] = None
    gate_lr: float | None = None

    def __init__(self, weights: Iterable[Tensor]):
        super().__init__()
        if isinstance(weights, Tensor):
            got = f"one of shape {tuple(weights.shape)}"
            raise ValueError(f"{self._where}: weights must be a list of tensors, got {got}")
        self.weights = list(weights)
        for i, weight in enumerate(self.weights):
            if any(weight is other for other in self.weights[:i]):
                got = f"weight {i} of shape {tuple(weight.shape)} twice"
                raise ValueError(f"{self._where}: weights must be different tensors (R sums over them), got {got}")
            if not (isinstance(weight, Tensor) and weight.is_floating_point() and weight.numel()):
                is_tensor = isinstance(weight, Tensor)
                got = f"{weight.dtype} of shape {tuple(weight.shape)}" if is_tensor else repr(weight)
                raise ValueError(
                    f"{self._where}: weights must be floating-point tensors with at least one element, got {got}"
                )

    @property
    def _where(self) -> str:
        return type(self).__name__

    def initialize(self) -> None:
        """Replace the initial values of the weights and gates by those that the method needs.

        Called once on a new network, before `attach`. A training that continues loads its checkpoint afterwards.
        """

    def attach(self, model: torch.nn.Module) -> None:
        """Put the gates on the model's weights.

        Called once, before the optimizer is built.
        """

    def take_decay(self, weight_decay: float) -> list[Tensor]:
        """Take over the weight decay of some weights, for `backward` to apply.

        Called once, before the optimizer is built.

        Args:
            weight_decay: The optimizer's.

        Returns:
            The weights that the optimizer then leaves without weight decay.
        """
        return []

    def project(self) -> None:
        """Move values that are out of their bounds back to the bounds.

        Called after each optimizer step.
        """

    def fold(self, model: torch.nn.Module) -> None:
        """Replace gated weights by plain parameters of the same name, in place.

        Each gets the value that it has in evaluation, theta times the deterministic gate, bit for bit.

        Args:
            model: The attached model or a deep copy of it.
        """

    def diagnostics(self) -> dict[str, float]:
        """Return numbers for a trial's record: what happened to the weights."""
        return {}

    def forward(self) -> Tensor:
        """Return the unscaled penalty of all weights.

        It is a differentiable scalar on their device.
        """
        if not self.weights:
            return torch.zeros(())
        return torch.stack([self.penalty(weight) for weight in self.weights]).sum()

    def backward(self, lam: float) -> Tensor:
        """Add lam dR/dw to the gradients, as `(lam * R()).backward()` does, also under `torch.no_grad()`.

        Args:
            lam: Factor of the penalty in the loss.

        Returns:
            The unscaled penalty R(), detached.
        """
        with torch.enable_grad():
            penalty = self()
            if penalty.requires_grad:
                (lam * penalty).backward()
        return penalty.detach()

    def penalty(self, weight: Tensor) -> Tensor:
        """Return the unscaled penalty of one tensor of any shape, a scalar."""
        raise NotImplementedError(f"{self._where} must define penalty(weight)")
