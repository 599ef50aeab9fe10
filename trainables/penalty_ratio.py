"""The ratio of the penalty's gradient to the loss's, which shows whether the penalty dominates the training."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PENALTY_RATIO_LIMIT", "PenaltyRatio", "is_measured", "penalized"]

PENALTY_RATIO_LIMIT = 10.0
NUM_SHARE_STEPS = 8  # the penalty share is a mean over so many steps, because that of one batch varies
LARGEST = 1e9  # stands for division by zero and overflowing norms, because records hold finite numbers


class PenaltyRatio:
    """lam |dR/dw| / |dL/dw|, with L2 norms over the weights that the penalty acts on, at selected steps.

    Measured steps are the first 8 of a phase, the steps 8, 16, 32, ..., the last step of each epoch, and the last 8 of
    a phase. The first ones are close together because weights can leave their initial values within a few steps. A
    measured step copies the gradients once and reads them twice. It does not change the training and does not wait for
    the device; only `collect`, called once per epoch, waits. The penalty's gradient is measured as the change of the
    accumulated gradient, so in float32 ratios below about 1e-6 are rounding errors.

    Attributes:
        values: Empty until something is measured. `start` and `end` are the ratios at the first and the latest measured
            step. `max`, at step `max_step`, is the largest ratio of the penalty's gradient to the loss's gradient at
            that step or at the first one (`first_loss`), whichever is larger: as a network fits its data, the loss's
            gradient vanishes, and the plain ratio would grow under any penalty. `first` and `latest` are the pairs of
            norms (penalty's, loss's) of the first and the latest 8 measured steps.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._pending: list[tuple[int, Tensor]] = []

    @contextlib.contextmanager
    def measure(self, step: int, weights: Iterable[Tensor]) -> Iterator[None]:
        """Measure one step. The caller adds the penalty's gradient to the loss's inside the `with` block.

        Args:
            step: The number of the step, counted over all phases.
            weights: The tensors that the penalty acts on (see `penalized`), with the loss's gradient in `.grad`.
        """
        weights = list(weights)
        before = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights]
        yield
        of_loss = torch.nn.utils.get_total_norm(before)
        # The gradient of a gate is None until the loss or the penalty depends on it.
        after = [b if w.grad is None else w.grad for w, b in zip(weights, before, strict=True)]
        of_penalty = torch.nn.utils.get_total_norm(torch._foreach_sub(after, before))
        self._pending.append((step, torch.stack([of_penalty, of_loss])))

    def collect(self) -> None:
        """Wait for the device and evaluate the steps measured since the last call."""
        for step, norms in self._pending:
            penalty, loss = norms.tolist()
            if not self.values:
                start = ratio_of(penalty, loss)
                self.values = {"first_loss": min(loss, LARGEST), "start": start, "max": start, "max_step": step}
            self.values["end"] = ratio_of(penalty, loss)
            self.values["first"] = [*self.values.get("first", ()), [penalty, loss]][:NUM_SHARE_STEPS]
            self.values["latest"] = [*self.values.get("latest", ()), [penalty, loss]][-NUM_SHARE_STEPS:]
            ratio = ratio_of(penalty, max(loss, self.values["first_loss"]))
            if ratio > self.values["max"]:
                self.values |= {"max": ratio, "max_step": step}
        self._pending.clear()

    def describe(self) -> dict[str, float]:
        """What the records hold; empty if nothing was measured.

        Returns:
            `penalty_ratio_start`, `penalty_ratio_end` and `penalty_ratio_max`, each of one step. `penalty_share_start`
            and `penalty_share_end` are the mean norm of the penalty's gradient over that of the loss's, at the first
            and the latest 8 measured steps.
        """
        found = {f"penalty_ratio_{name}": self.values[name] for name in ("start", "end", "max") if name in self.values}
        for name, steps in (("start", "first"), ("end", "latest")):
            if pairs := self.values.get(steps):
                penalty, loss = (sum(norms) / len(pairs) for norms in zip(*pairs, strict=True))
                found[f"penalty_share_{name}"] = ratio_of(penalty, loss)
        return found

    def warning(self, lam: float) -> str:
        """A line if `max` exceeds PENALTY_RATIO_LIMIT, else ""."""
        ratio, step = self.values.get("max", 0.0), self.values.get("max_step")
        if ratio <= PENALTY_RATIO_LIMIT:
            return ""
        return (
            f"penalty: its gradient reached {ratio:.3g} times the loss's at step {step} with lam {lam:g}, more than "
            f"{PENALTY_RATIO_LIMIT:g} times (lower lam, or raise the regularizer's eps where it has one)"
        )


def is_measured(step: int, steps_per_epoch: int, max_epochs: int) -> bool:
    """Whether `step` is measured. Steps count from 0 over all phases, each of `max_epochs` epochs."""
    num_steps = steps_per_epoch * max_epochs
    in_phase = step % num_steps
    at_an_end = in_phase < NUM_SHARE_STEPS or in_phase >= num_steps - NUM_SHARE_STEPS
    return at_an_end or in_phase & (in_phase - 1) == 0 or (step + 1) % steps_per_epoch == 0


def ratio_of(penalty: float, loss: float) -> float:
    """penalty / loss, at most LARGEST; 0 without a penalty."""
    if penalty == 0:
        return 0.0
    if not (math.isfinite(penalty) and math.isfinite(loss)) or loss == 0:
        return LARGEST
    return min(penalty / loss, LARGEST)


def penalized(model: nn.Module, regularizer: Any) -> list[Tensor]:
    """The trained tensors that the penalty depends on: its gates if it has any, else its weights.

    If its weights are computed from other tensors (merged LoRA factors), these are the model's trained tensors of more
    than one dimension.
    """
    gates: list[Tensor] = list(regularizer.parameters())
    weights = [w for w in regularizer.weights if w.is_leaf and w.requires_grad]
    return gates or weights or [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
