import math

import torch

from sparsity.gates import Gate, Gated

__all__ = ["ConcaveMask"]


class ConcaveMask(Gated):
    """R = sum over weights of r(m), m in [0, 1] a relaxed mask trained together with theta; the model uses w = m theta.

    r(m) = log(1 + m/delta) / log(1 + 1/delta) ("log", strictly concave, with r(0) = 0, r(1) = 1 and r(1/2) > 1/2), or
    r(m) = m ("l1", the convex control). Projected gradient: `project()`, called after each optimizer step, clamps m to
    [0, 1], so masks can become exactly 0.
    Source: Fracastoro et al., "Playing the lottery with concave regularizers for sparse trainable neural networks",
    2025, arXiv 2501.11135. A lottery method: train, prune where m < alpha (alpha much below 1, `gate_values()`), rewind
    theta, retrain.
    weights: tensors of any shape, each the parameter of one module; `attach(model)` puts the masks there.
    r: "log" or "l1". delta: > 0, in units of m; its value is ours. The smaller delta, the closer r is to counting the
        nonzero masks: r'(0) / r'(1) = 1 + 1/delta.
    start: in (0, 1], the initial value of every m; 0.5 or 1 in the paper. theta is not rescaled for it.
    An optimizer that perturbs m (SAM) can move it below 0; there r continues linearly with its slope at 0.
    The training loop applies weight decay to theta but not to m.
    gate_lr: learning rate of m, > 0; None for the learning rate of the weights. Without the task's gradient, "log"
        takes m from 1 to 0 at lam * S = log(1 + 1/delta) (delta + 1/2), 1.44 at delta 0.1, and "l1" at lam * S = 1
        (`_gated.py` defines S). The slope of log is steepest at 0, so the fraction of closed masks rises steeply with
        lam. Scikit-learn's digits, 640 steps of SGD: gate_lr 10 closes 0.02, 0.09, 0.24, 0.95 and 0.98 of the masks at
        lam 1e-5, 3e-5, 4e-5, 6e-5 and 1e-4.
    Returns a scalar in [0, number of weights].
    Cost: no extra gradient evaluation; 1 x the weights of memory (m, which also has a gradient and optimizer state) and
        1 x in the graph of a pass (w), 2 x more in the penalty's.
    ValueError for delta <= 0, start outside (0, 1], gate_lr <= 0, an unknown r.
    """

    def __init__(
        self, weights, *, r: str = "log", delta: float = 0.1, start: float = 1.0, gate_lr: float | None = None
    ):
        if r not in ("log", "l1"):
            raise ValueError(f"ConcaveMask: r must be one of log, l1, got {r!r}")
        if not 0 < delta < math.inf:
            raise ValueError(f"ConcaveMask: delta must be > 0 and finite (it bounds the slope of log), got {delta}")
        if not 0 < start <= 1:
            raise ValueError(f"ConcaveMask: start must be in (0, 1] (a mask at 0 would not train theta), got {start}")
        super().__init__(weights, lambda weight: Mask(weight, start), gate_lr=gate_lr)
        self.r, self.delta = r, delta

    def gate_penalty(self, gate, num_weights):
        if self.r == "l1":
            return gate.m.sum()
        above = gate.m.relu()  # the subgradient at m = 0 cancels: the slope of the sum is 1/delta there
        return ((above / self.delta).log1p() + (gate.m - above) / self.delta).sum() / math.log1p(1 / self.delta)

    @torch.no_grad()
    def project(self):
        for m in self.parameters():
            m.clamp_(0, 1)


class Mask(Gate):
    """The mask of one weight tensor: `m` has one element for each of its elements."""

    def __init__(self, weight, start: float):
        super().__init__(weight)
        self.m = self.parameter(weight, start)

    def values(self, training):
        return self.m
