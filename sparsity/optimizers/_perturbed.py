"""What optimizers share that take gradients at displaced weights and let a base optimizer apply them at the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown
from sparsity.optimizers._eager import Optimizer
from sparsity.registry import choices, find

__all__ = ["Perturbed"]

TINY_NORM = 1e-12  # a zero gradient gives no displacement rather than 0/0


class Perturbed(Optimizer):
    """An optimizer around a base optimizer of this folder; subclasses define `step(closure)`.

    Groups and state are the base's own, so a scheduler, `add_param_group` and `state_dict` see one optimizer, and every
    argument, rho included, lives in the groups. The base reads its momentum and learning rate from there at each step.
    base: file name of an optimizer that takes one gradient a step. base_arguments: its arguments. own: this class's arguments.
    A class of this folder says `is_base = False` if it cannot be one.
    ValueError if rho is negative or not finite, and for an unknown base or argument.
    """

    base: Optimizer
    is_base = False

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
        package = __package__ or "sparsity.optimizers"
        bases = [name for name in choices(package) if getattr(find(package, name), "is_base", True)]
        if base not in bases:
            raise ValueError(f"{self._where}: base must be one of {', '.join(bases)}, got {base!r}")
        return find(package, base)

    def _link(self) -> None:
        self.base.param_groups, self.base.state = self.param_groups, self.state

    def add_param_group(self, param_group: dict) -> None:
        check_nonnegative(self._where, rho=param_group.get("rho", self.defaults["rho"]))
        super().add_param_group(param_group)

    def __getstate__(self):
        return {**super().__getstate__(), "base": self.base}

    def __setstate__(self, state):  # also the end of load_state_dict, which replaces groups and state
        super().__setstate__(state)
        self._link()

    def evaluation(self, closure: Callable[[], Tensor] | None) -> Callable[[], Tensor]:
        """The closure, under enabled gradients. ValueError if there is none."""
        if closure is None:
            raise ValueError(
                f"{self._where}: step must be given a closure that clears the gradients, computes loss and gradients "
                "and returns the loss (the gradient is taken at perturbed weights), got None"
            )
        return torch.enable_grad()(closure)

    def gradients(self) -> dict[Tensor, Tensor]:
        """Parameter -> gradient, of those that have one, in the groups' order. ValueError for a sparse gradient."""
        found = {p: p.grad for group in self.param_groups for p in group["params"] if p.grad is not None}
        for gradient in found.values():
            if gradient.is_sparse:
                raise ValueError(
                    f"{self._where}: gradients must be dense (set sparse=False in the embedding), "
                    f"got a sparse one of shape {tuple(gradient.shape)}"
                )
        return found

    @property
    def is_on(self) -> bool:
        """False if rho is 0 in every group: the optimizer is then its base."""
        return any(group["rho"] for group in self.param_groups)

    @contextmanager
    def restored(self, params: list[Tensor]) -> Iterator[None]:
        """Inside, `params` may be changed in place; afterwards they are what they were, bit for bit."""
        kept = [p.clone() for p in params]
        try:
            yield
        finally:
            if params:
                torch._foreach_copy_(params, kept)

    @contextmanager
    def ascended(self, vectors: dict[Tensor, Tensor]) -> Iterator[None]:
        """Inside, the weights are at w + e, e = rho v / |v|, the norm joint over all vectors of all groups.

        vectors: parameter -> v. Groups with `adaptive` have e = rho w^2 v / |w v|, their part of the norm being |w v|.
        """
        if not (self.is_on and vectors):
            yield
            return
        with self.restored(list(vectors)):
            self._ascend(vectors)
            del vectors  # SAM's second gradient needs the memory
            yield

    def _ascend(self, vectors: dict[Tensor, Tensor]) -> None:
        steps: list[tuple[dict, list[Tensor], list[Tensor]]] = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p in vectors]
            if params:
                v = [vectors[p] for p in params]
                steps.append((group, params, list(torch._foreach_mul(v, params)) if group.get("adaptive") else v))
        norm = torch.nn.utils.get_total_norm([x for _, _, v in steps for x in v]).clamp(min=TINY_NORM)
        for group, params, direction in steps:
            scale = group["rho"] / norm
            if norm.is_cpu and not group.get("adaptive"):
                torch._foreach_add_(params, direction, alpha=scale.item())  # e itself is never in memory
                continue
            e = torch._foreach_mul(direction, scale)
            if group.get("adaptive"):
                torch._foreach_mul_(e, params)
            torch._foreach_add_(params, e)
