import math

import torch

from sparsity.gates import Gate, Gated
from sparsity.ranges import Range

__all__ = ["ConcaveMask"]


class ConcaveMask(Gated):
    """Concave penalty on a relaxed mask that is trained together with the weights.

    The model computes with w = m theta, where m in [0, 1] has one element per weight. R is the sum of r(m) over all
    weights, in [0, number of weights]:

        r(m) = log(1 + m/delta) / log(1 + 1/delta)   ("log": strictly concave, r(0) = 0, r(1) = 1, r(1/2) > 1/2)
        r(m) = m                                     ("l1": the convex control)

    `project`, called after each optimizer step, clamps m to [0, 1] (projected gradient), so masks can become exactly 0.
    An optimizer that displaces m, such as SAM, can evaluate r below 0; there it continues linearly with its slope at 0.
    The training loop applies weight decay to theta but not to m. theta is not rescaled for the initial m.

    This is a lottery-ticket method: train, prune where m < alpha with alpha much below 1 (`gate_values`), rewind theta,
    and train again.

    Choosing lam and gate_lr (`Gated` defines S): without the task's gradient, "log" takes m from 1 to 0 at
    lam * S = log(1 + 1/delta) (delta + 1/2), which is 1.44 at delta 0.1, and "l1" at lam * S = 1. The slope of log is
    steepest at 0, so the fraction of closed masks rises steeply with lam. On scikit-learn's digits, with 640 steps of
    SGD and gate_lr 10, lam 1e-5, 3e-5, 4e-5, 6e-5 and 1e-4 close 0.02, 0.09, 0.24, 0.95 and 0.98 of the masks.

    Args:
        weights: Tensors of any shape, each the parameter of one module; `attach(model)` puts the masks there.
        r: "log" or "l1".
        delta: In units of m, > 0. A smaller delta brings r closer to counting the nonzero masks: r'(0) / r'(1) is
            1 + 1/delta. The default is ours.
        start: Initial value of all m, in (0, 1]; 0.5 or 1 in the reference.
        gate_lr: Learning rate of m, > 0; None for the learning rate of the weights.

    Raises:
        ValueError: If delta is not positive and finite, start is outside (0, 1], gate_lr is not positive and finite, or
            r is unknown.

    Reference:
        Fracastoro et al., "Playing the lottery with concave regularizers for sparse trainable neural networks", 2025,
        arXiv 2501.11135.

    Cost:
        No extra gradient evaluation. Memory in multiples of the weights: 1 x for the mask, plus its gradient and
        optimizer state; 1 x in the graph of a forward pass (the masked weights); 2 x in the graph of the penalty.
    """

    # search_spaces/small_cnn.py with its gate_lr of 10; a smaller gate_lr needs a larger lam in proportion
    lam_range = Range(1e-5, 3e-4, 6e-5)

    def __init__(
        self, weights, *, r: str = "log", delta: float = 0.1, start: float = 1.0, gate_lr: float | None = None
    ):
        if r not in ("log", "l1"):
            raise ValueError(f"ConcaveMask: r must be one of log, l1, got {r!r}")
        if not 0 < delta < math.inf:
            raise ValueError(f"ConcaveMask: delta must be > 0 and finite (it bounds the slope of r at 0), got {delta}")
        if not 0 < start <= 1:
            raise ValueError(f"ConcaveMask: start must be in (0, 1] (a mask at 0 would not train theta), got {start}")
        super().__init__(weights, lambda weight: Mask(weight, start), gate_lr=gate_lr)
        self.r, self.delta = r, delta

    def gate_penalty(self, gate, num_weights):
        if self.r == "l1":
            return gate.m.sum()
        above = gate.m.relu()  # at m = 0 the two terms' subgradients add up to the slope 1/delta
        return ((above / self.delta).log1p() + (gate.m - above) / self.delta).sum() / math.log1p(1 / self.delta)

    @torch.no_grad()
    def project(self):
        for m in self.parameters():
            m.clamp_(0, 1)


class Mask(Gate):
    """The relaxed mask of one weight.

    The trained parameter is `m`, of shape (num_gates,).
    """

    def __init__(self, weight, start: float):
        super().__init__(weight)
        self.m = self.parameter(weight, start)

    def values(self, training):
        return self.m
