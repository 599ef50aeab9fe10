"""Base classes of regularizers with gates on the weights.

The model computes with theta * z, where theta is the trained weight and z are its gates. `Gate` is a torch
parametrization of one weight, so models need no change. `Gated` puts one on each weight and folds them back into plain
weights.
"""

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from sparsity.regularizer import Regularizer

__all__ = ["Gate", "Gated"]


class Gate(torch.nn.Module):
    """The gates z of one weight: a parametrization theta -> theta * z.

    theta * z has theta's shape, type and memory format. A subclass defines `values(training)`.

    The trained parameter behind z is one-dimensional, of shape (num_gates,) in row-major order. Methods that treat
    every tensor of more than one dimension as a weight (CrAM's top-k, SFW's polytope) therefore leave it alone.

    Args:
        weight: The weight.
        per_row: Whether there is one gate per index of the first dimension (a unit, a filter) instead of one per
            weight.
    """

    def __init__(self, weight: Tensor, *, per_row: bool = False):
        super().__init__()
        self.shape = (*weight.shape[:1], *(1,) * (weight.dim() - 1)) if per_row else tuple(weight.shape)
        self.num_gates = math.prod(self.shape)

    def parameter(self, weight: Tensor, start: float) -> torch.nn.Parameter:
        """Return a parameter of shape (num_gates,) filled with `start`.

        It is on the weight's device and has at least float32.
        """
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return torch.nn.Parameter(torch.full((self.num_gates,), start, dtype=dtype, device=weight.device))

    def values(self, training: bool) -> Tensor:
        """Return z, of shape (num_gates,), as used in training or in evaluation."""
        raise NotImplementedError(f"{type(self).__name__} must define values(training)")

    def forward(self, theta: Tensor) -> Tensor:
        return theta * self.values(self.training).to(theta.dtype).view(self.shape)


class Gated(Regularizer):
    """A regularizer whose penalty is a function of gates on the model's weights.

    `attach` puts the gates on the weights. A subclass defines `gate_penalty(gate, num_weights)`.

    SFW, CrAM and SAFE rank and constrain the parameters, here theta, not the effective weights theta * z: a weight with
    a small theta z but a large theta counts as large. With `WeightFactorization`, theta is the first factor.

    Choosing lam and gate_lr: without a gradient from the task, the distance that a gate moves depends only on lam * S,
    where S is the sum of the gates' learning rate over the steps, divided by 1 - momentum for SGD and the optimizers
    based on it (not for SFW, whose d is an average). Each class states the lam * S at which such gates close. At the
    weights' learning rate, a short run reaches it only with a lam that outweighs the task's gradients, so the gates
    close all together or not at all. A larger gate_lr needs a smaller lam, and the task's gradients then have more
    influence on which gates close. If the number of steps changes, keep the product of gate_lr and the number of steps
    constant. None of this applies to AdamW, which normalizes gradients: a gate moves by about gate_lr per step.

    Args:
        weights: Floating-point tensors, each the parameter of one module of the model.
        make_gate: Function from a weight to its `Gate`.
        gate_lr: Learning rate of the gates, > 0; None for the learning rate of the weights. The training loop gives the
            gates a parameter group of their own, so a schedule scales both learning rates by the same factor.

    Raises:
        ValueError: If gate_lr is not positive and finite, or the weights are invalid.
    """

    def __init__(self, weights: Iterable[Tensor], make_gate: Callable[[Tensor], Gate], *, gate_lr: float | None = None):
        super().__init__(weights)
        if gate_lr is not None and not 0 < gate_lr < math.inf:
            raise ValueError(
                f"{self._where}: gate_lr must be > 0 and finite (leave it out for the weights' lr), got {gate_lr}"
            )
        self.gate_lr = gate_lr
        self.gates = torch.nn.ModuleList(make_gate(weight) for weight in self.weights)

    def gate_values(self) -> list[Tensor]:
        """Return z in evaluation, expanded to the shape of each weight (read-only views)."""
        return [
            gate.values(training=False).view(gate.shape).expand(weight.shape).detach()
            for weight, gate in zip(self.weights, cast(Iterable[Gate], self.gates), strict=True)
        ]

    def diagnostics(self) -> dict[str, float]:
        """Return gates_closed: the fraction of weights with a closed gate.

        A gate is closed if it is exactly 0 in evaluation. Without weights the fraction is 0.
        """
        num_closed = sum(int((z == 0).sum()) for z in self.gate_values())
        return {"gates_closed": num_closed / max(1, sum(weight.numel() for weight in self.weights))}

    def penalty(self, weight: Tensor) -> Tensor:
        for own, gate in zip(self.weights, self.gates, strict=True):
            if own is weight:
                return self.gate_penalty(cast(Gate, gate), weight.numel())
        raise ValueError(
            f"{self._where}: weight must be one of those that have gates, got another of shape {tuple(weight.shape)}"
        )

    def gate_penalty(self, gate: Gate, num_weights: int) -> Tensor:
        """Return the penalty of one gated tensor of `num_weights` elements, a scalar."""
        raise NotImplementedError(f"{self._where} must define gate_penalty(gate, num_weights)")

    def attach(self, model: torch.nn.Module) -> None:
        """Make `module.weight` return theta * z, where theta is the existing parameter.

        Args:
            model: The model that owns the weights.

        Raises:
            ValueError: If a weight does not belong to exactly one module of the model (compared by identity), or has a
                parametrization already, as after a first `attach`.
        """
        owners: dict[Tensor, list[tuple[torch.nn.Module, str]]] = {weight: [] for weight in self.weights}
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter in owners and not isinstance(module, parametrize.ParametrizationList):
                    owners[parameter].append((module, name))
        for weight, places in owners.items():
            if len(places) != 1:
                raise ValueError(
                    f"{self._where}: weights must each belong to one module of the model and have no parametrization "
                    f"yet (gates are put there), got one of shape {tuple(weight.shape)} in {len(places)} such modules"
                )
        for weight, gate in zip(self.weights, self.gates, strict=True):
            ((module, name),) = owners[weight]
            # unsafe=True skips torch's check, which would draw random numbers
            parametrize.register_parametrization(module, name, gate, unsafe=True)

    def fold(self, model: torch.nn.Module) -> None:
        for module in list(model.modules()):
            if not parametrize.is_parametrized(module):
                continue
            chains = cast(torch.nn.ModuleDict, module.parametrizations)
            for name, chain in list(chains.items()):
                if isinstance(cast(parametrize.ParametrizationList, chain)[0], Gate):
                    chain.eval()
                    # torch deletes the property from the class, which a deep copy shares with the model: copy the class
                    made = type(module)
                    module.__class__ = type(made.__name__, made.__bases__, dict(vars(made)))
                    parametrize.remove_parametrizations(module, name)
