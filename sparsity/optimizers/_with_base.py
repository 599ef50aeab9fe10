"""Base class of the optimizers that take gradients at displaced weights.

A base optimizer then updates the weights with these gradients.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown
from sparsity.optimizers._without_compiler import Optimizer
from sparsity.registry import load, names

__all__ = ["OptimizerWithBase", "add_scaled", "joint_norm", "widened"]

GroupGradients = list[tuple[dict, list[Tensor], list[Tensor]]]  # parameter group, its parameters, their gradients

TINY_NORM = 1e-12  # a zero gradient gives no displacement instead of 0/0


class OptimizerWithBase(Optimizer):
    """An optimizer around a base optimizer; subclasses define `step(closure)`.

    Both share their parameter groups and their state, so a scheduler, `add_param_group` and `state_dict` see one
    optimizer. All arguments, `rho` included, are in the groups, where the base reads its own at each step.

    Args:
        params: Parameters or parameter groups, as for any torch optimizer.
        lr: Learning rate of the base.
        base: File name of the base, an optimizer of this folder with `is_base`.
        base_arguments: Arguments of the base.
        rho: Size of the displacement.
        own: Other arguments of the subclass.

    Attributes:
        shared: Arguments that concern all parameter groups together, so that a group cannot have its own.

    Raises:
        ValueError: If rho, lr or weight_decay is negative or not finite, the base or an argument is unknown, or a group
            has an argument that concerns all groups.
    """

    base: Optimizer
    is_base = False
    shared: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params, lr: float, *, base: str, base_arguments: dict, rho: float, **own):
        base_class = self._base_class(base)
        refuse_unknown(self._where, base_arguments, [*keywords(base_class), *keywords(type(self))])
        self.base = base_class(params, lr, **base_arguments)
        super().__init__(self.base.param_groups, {**self.base.defaults, "rho": rho, **own})
        self._link()

    @property
    def _where(self) -> str:
        return type(self).__name__

    def _base_class(self, base: str) -> Any:
        bases = [name for name in names("optimizers") if getattr(load("optimizers", name), "is_base", True)]
        if base not in bases:
            raise ValueError(f"{self._where}: base must be one of {', '.join(bases)}, got {base!r}")
        return load("optimizers", base)

    def _link(self) -> None:
        self.base.param_groups, self.base.state = self.param_groups, self.state

    def add_param_group(self, param_group: dict) -> None:
        for name in self.shared:
            if name in param_group:
                got = f"{param_group[name]!r} in a parameter group"
                raise ValueError(f"{self._where}: {name} must be an argument of the optimizer (all groups), got {got}")
        group = {**self.defaults, **param_group}
        check_nonnegative(self._where, **{name: group[name] for name in ("rho", "lr", "weight_decay")})
        super().add_param_group(param_group)

    def __getstate__(self):
        return {**super().__getstate__(), "base": self.base}

    def __setstate__(self, state):  # load_state_dict ends here too, after it has replaced groups and state
        super().__setstate__(state)
        self._link()

    @property
    def is_on(self) -> bool:
        """False if rho is 0 in every group: the optimizer is then its base."""
        return any(group["rho"] for group in self.param_groups)

    def evaluation(self, closure: Callable[[], Tensor] | None) -> Callable[[], Tensor]:
        """The closure, with gradients enabled. Raises ValueError if there is none."""
        if closure is None:
            raise ValueError(
                f"{self._where}: step must be given a closure that clears the gradients, computes loss and gradients "
                "and returns the loss (the gradient is taken at perturbed weights), got None"
            )
        return torch.enable_grad()(closure)

    def gradients(self) -> dict[Tensor, Tensor]:
        """Return the gradient of each parameter that has one, in groups' order.

        Raises ValueError for a sparse gradient.
        """
        found = {p: p.grad for group in self.param_groups for p in group["params"] if p.grad is not None}
        for gradient in found.values():
            if gradient.is_sparse:
                raise ValueError(
                    f"{self._where}: gradients must be dense (set sparse=False in the embedding), "
                    f"got a sparse one of shape {tuple(gradient.shape)}"
                )
        return found

    def by_group(self, vectors: dict[Tensor, Tensor]) -> GroupGradients:
        """Return, for each group, its parameters that have a vector, and the vectors."""
        groups = [(group, [p for p in group["params"] if p in vectors]) for group in self.param_groups]
        return [(group, params, [vectors[p] for p in params]) for group, params in groups if params]

    @contextmanager
    def restored(self, params: Iterable[Tensor]) -> Iterator[None]:
        """Restore the parameters at the end of the block, bit for bit.

        An exception in the block does not change that.
        """
        params = list(params)
        saved = [p.clone() for p in params]
        try:
            yield
        finally:
            if params:
                torch._foreach_copy_(params, saved)

    @contextmanager
    def displaced(self, vectors: dict[Tensor, Tensor]) -> Iterator[None]:
        """Move the parameters to w + e during the block.

        Args:
            vectors: The vector of each parameter, from which `displace` computes e. The dictionary is emptied, because
                the block needs the memory.
        """
        with self.restored(vectors):
            self.displace(vectors)
            vectors.clear()
            yield

    def displace(self, vectors: dict[Tensor, Tensor]) -> None:
        """Add e = rho v / |v| to the parameters, in place; the norm is joint over all vectors."""
        norm = joint_norm(vectors.values())
        for group, params, group_vectors in self.by_group(vectors):
            add_scaled(params, group_vectors, group["rho"] / norm)

    def base_step(self, *own: str) -> None:
        """Make the base's update without the subclass's `own` entries of the state.

        AdamW initializes its state only where the state is empty.
        """
        kept = {p: {name: state.pop(name) for name in own if name in state} for p, state in self.state.items()}
        try:
            self.base.step()
        finally:
            for p, entries in kept.items():
                self.state[p].update(entries)


def joint_norm(vectors: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all elements of all tensors, at least `TINY_NORM`.

    It is at least float32: float16 ends at 65504 and rounds `TINY_NORM` to 0.
    """
    parts = [torch.linalg.vector_norm(v, dtype=torch.float32) if v.itemsize < 4 else v for v in vectors]
    return torch.nn.utils.get_total_norm(parts).clamp(min=TINY_NORM)


def widened(tensors: list[Tensor]) -> list[Tensor]:
    """Convert float16 to float32, because rho / |g| and |w g| can be outside of float16's range."""
    return [tensor.float() if tensor.dtype is torch.float16 else tensor for tensor in tensors]


def add_scaled(params: list[Tensor], vectors: list[Tensor], scale: float | Tensor) -> None:
    """Add scale * vectors to params, in place.

    A scale on an accelerator stays there, so that nothing waits for it.
    """
    vectors = widened(vectors)
    if isinstance(scale, Tensor) and not scale.is_cpu:
        torch._foreach_add_(params, torch._foreach_mul(vectors, scale))
    else:
        torch._foreach_add_(params, vectors, alpha=scale.item() if isinstance(scale, Tensor) else scale)
