import math
from collections.abc import Iterable
from typing import cast

import torch

from sparsity.gates import Gate, Gated
from sparsity.ranges import Range

__all__ = ["L0HardConcrete"]


class L0HardConcrete(Gated):
    """L0 penalty by hard concrete gates: the expected number of weights that are on.

    R is the sum over gates of |g| P(z != 0), in [0, number of weights], where gate g gates |g| weights and

        P(z != 0) = sigmoid(log_alpha - beta log(-gamma / zeta))

    The model computes with w = theta z, and theta and log_alpha are trained together. In training mode, each use of a
    weight draws new gates:

        u ~ U(0, 1)
        s = sigmoid((log u - log(1 - u) + log_alpha) / beta)
        z = clamp(s (zeta - gamma) + gamma, 0, 1)

    In evaluation mode, and when folded, s = sigmoid(log_alpha). u comes from torch's global generator. An optimizer
    that takes several gradients per step draws new noise for each, as with dropout.

    Weight decay: log_alpha has none, and theta has the expected decay, as in the authors' code. The training loop
    passes the optimizer's weight decay to `take_decay`; `backward` then adds the gradient of weight_decay / 2 * sum
    theta^2 P(z != 0) to theta and log_alpha. A smaller P(z != 0) means less decay, and large weights push their gates
    to close. With AdamW this decay is coupled, as with the authors' Adam.

    Choosing lam and gate_lr (`Gated` defines S): a gate is closed in evaluation if log_alpha < -2.40. Without the
    task's gradient, a gate of one weight gets there from 0 at lam * S = 11.3, and a gate of |g| weights at 11.3 / |g|.
    On scikit-learn's digits, with 640 steps of SGD and gate_lr 100, lam 1e-6, 1e-5, 3e-5, 1e-4 and 3e-4 close 0.06,
    0.09, 0.40, 0.97 and 0.99 of the gates.

    Args:
        weights: Tensors of any shape, each the parameter of one module; `attach(model)` puts the gates there.
        per: "weight" for one gate per weight, or "row" for one per index of the first dimension (a unit, a filter).
        droprate_init: In (0, 1). log_alpha starts at log(1 - droprate_init) - log(droprate_init), where P(z != 0) is
            above 1 - droprate_init (0.83 at 0.5). The authors' code has 0.5 for layers in general, 0.2 for an MLP's
            inputs and 0.3 for WideResNets.
        gate_lr: Learning rate of log_alpha, > 0; None for the learning rate of the weights.
        decay: "expected", as above, or "plain": the optimizer decays all of theta.
        beta: Temperature, in (0, 1].
        gamma: Lower end of the stretched s, < 0, so that z is exactly 0 with positive probability.
        zeta: Upper end of the stretched s, > 1, so that z is exactly 1 with positive probability.

    Raises:
        ValueError: If a number is out of its range, or per or decay is unknown.

    Reference:
        Louizos, Welling & Kingma, "Learning sparse neural networks through L0 regularization", ICLR 2018, arXiv
        1712.01312. As in the authors' code, a gate counts once for each weight that it gates, so that lam has the same
        meaning for gates per weight and per row. Departures from the code: log_alpha starts without noise of N(0,
        0.01^2) and is not clamped to [log 0.01, log 100], and the weight decay is not divided by 1 - droprate_init.

    Cost:
        No extra gradient evaluation. Memory in multiples of the weights: with per="weight", 1 x for the gates'
        parameters, plus their gradients and optimizer state, and 5 x in the graph of a forward pass; with per="row", 1
        x in this graph (the gated weights). The gradient of the weight decay needs another 3 x, which is freed before
        the penalty's gradient is computed.
    """

    # search_spaces/small_cnn.py with its gate_lr of 100; a smaller gate_lr needs a larger lam in proportion
    lam_range = Range(1e-6, 1e-3, 3e-5)

    def __init__(
        self,
        weights,
        *,
        per: str = "weight",
        droprate_init: float = 0.5,
        gate_lr: float | None = None,
        decay: str = "expected",
        beta: float = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
    ):
        if per not in ("weight", "row"):
            raise ValueError(f"L0HardConcrete: per must be one of weight, row, got {per!r}")
        if decay not in ("expected", "plain"):
            raise ValueError(f"L0HardConcrete: decay must be one of expected, plain, got {decay!r}")
        if not 0 < droprate_init < 1:
            raise ValueError(
                f"L0HardConcrete: droprate_init must be in (0, 1) (a gate must be able to learn), got {droprate_init}"
            )
        if not 0 < beta <= 1:
            raise ValueError(f"L0HardConcrete: beta must be in (0, 1] (the temperature of the noise), got {beta}")
        if not -math.inf < gamma < 0:
            raise ValueError(f"L0HardConcrete: gamma must be < 0 (otherwise no gate is ever exactly 0), got {gamma}")
        if not 1 < zeta < math.inf:
            raise ValueError(f"L0HardConcrete: zeta must be > 1 (otherwise no gate is ever exactly 1), got {zeta}")
        super().__init__(
            weights, lambda w: HardConcrete(w, per == "row", droprate_init, beta, gamma, zeta), gate_lr=gate_lr
        )
        self.decay, self.weight_decay = decay, 0.0

    def gate_penalty(self, gate, num_weights):
        return gate.probability_open().sum() * (num_weights // gate.num_gates)

    def take_decay(self, weight_decay):
        if self.decay == "plain":
            return []
        self.weight_decay = weight_decay
        return self.weights

    def expected_square(self):
        """Return the sum over weights of theta^2 P(z != 0), a differentiable scalar."""
        terms = [
            (theta.square() * gate.probability_open().view(gate.shape)).sum()
            for theta, gate in zip(self.weights, cast(Iterable[HardConcrete], self.gates), strict=True)
        ]
        return torch.stack(terms).sum()

    def backward(self, lam):
        if self.weight_decay and self.weights:
            with torch.enable_grad():
                (self.weight_decay / 2 * self.expected_square()).backward()
        return super().backward(lam)


class HardConcrete(Gate):
    """The hard concrete gates of one weight.

    The trained parameter is `log_alpha`, of shape (num_gates,).
    """

    def __init__(self, weight, per_row: bool, droprate_init: float, beta: float, gamma: float, zeta: float):
        super().__init__(weight, per_row=per_row)
        self.log_alpha = self.parameter(weight, math.log(1 - droprate_init) - math.log(droprate_init))
        self.beta, self.gamma, self.zeta = beta, gamma, zeta

    def values(self, training):
        if training:
            noise = torch.rand_like(self.log_alpha).logit_()  # u = 0 gives -inf, which closes the gate
            s = torch.sigmoid((noise + self.log_alpha) / self.beta)
        else:
            s = torch.sigmoid(self.log_alpha)
        return (s * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)

    def probability_open(self):
        """Return P(z != 0) of each gate."""
        return torch.sigmoid(self.log_alpha - self.beta * math.log(-self.gamma / self.zeta))
