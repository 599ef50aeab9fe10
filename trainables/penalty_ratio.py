"""How large the penalty's gradient is beside the loss's: what shows that a penalty has taken over a training."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PENALTY_RATIO_LIMIT", "PenaltyRatio", "is_measured", "penalized"]

PENALTY_RATIO_LIMIT = 10.0
LARGEST = 1e9  # recorded for a loss without a gradient and for norms that overflow: records hold finite numbers


class PenaltyRatio:
    """lam |dR/dw| / |dL/dw|, L2 norms over the weights that the penalty reaches, measured on a few steps.

    Measured steps are 0, 1, 2, 4, 8, ... of a phase and the last step of each epoch: weights can leave their initial
    values within a few steps, and the last steps show the balance that training ends in. A measured step copies the
    gradients once and reads them twice. It changes no number of the training and does not wait for the device;
    `collect` does, once an epoch.
    The gradient of the penalty is the difference that it makes to the accumulated gradient, so ratios below about
    1e-6 are rounding in float32.

    `start` and `end` are the ratios at the first and at the latest measured step. `max` is the largest ratio, at
    `max_step`, where a loss gradient smaller than the first one counts as the first one: as a network fits its data
    the loss's gradient vanishes, and any penalty outgrows it without taking over.
    """

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._pending: list[tuple[int, Tensor]] = []

    @contextlib.contextmanager
    def measure(self, step: int, weights: Iterable[Tensor]) -> Iterator[None]:
        """Inside, the penalty's gradient is added to the loss's."""
        weights = list(weights)
        before = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights]
        yield
        of_loss = torch.nn.utils.get_total_norm(before)
        # A gate that neither the loss nor the penalty has reached yet has no gradient at all.
        after = [b if w.grad is None else w.grad for w, b in zip(weights, before, strict=True)]
        of_penalty = torch.nn.utils.get_total_norm(torch._foreach_sub(after, before))
        self._pending.append((step, torch.stack([of_penalty, of_loss])))

    def collect(self) -> None:
        """Read what was measured since the last call."""
        for step, norms in self._pending:
            penalty, loss = norms.tolist()
            if not self.values:
                start = ratio_of(penalty, loss)
                self.values = {"first_loss": min(loss, LARGEST), "start": start, "max": start, "max_step": step}
            self.values["end"] = ratio_of(penalty, loss)
            ratio = ratio_of(penalty, max(loss, self.values["first_loss"]))
            if ratio > self.values["max"]:
                self.values |= {"max": ratio, "max_step": step}
        self._pending.clear()

    def describe(self) -> dict[str, float]:
        """`penalty_ratio_start`, `penalty_ratio_end` and `penalty_ratio_max`, where anything was measured."""
        return {f"penalty_ratio_{name}": self.values[name] for name in ("start", "end", "max") if name in self.values}


def is_measured(step: int, steps_per_epoch: int, max_epochs: int) -> bool:
    """step: counted from 0 over all phases, each of which has `max_epochs`."""
    in_phase = step % (steps_per_epoch * max_epochs)
    return in_phase & (in_phase - 1) == 0 or (step + 1) % steps_per_epoch == 0


def ratio_of(penalty: float, loss: float) -> float:
    if penalty == 0:
        return 0.0
    if not (math.isfinite(penalty) and math.isfinite(loss)) or loss == 0:
        return LARGEST
    return min(penalty / loss, LARGEST)


def penalized(model: nn.Module, regularizer: Any) -> list[Tensor]:
    """The trained tensors that the penalty is a function of: its gates, or its weights, or, where those are computed
    from others (merged LoRA factors), the model's trained tensors of more than one dimension."""
    gates: list[Tensor] = list(regularizer.parameters())
    weights = [w for w in regularizer.weights if w.is_leaf and w.requires_grad]
    return gates or weights or [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
