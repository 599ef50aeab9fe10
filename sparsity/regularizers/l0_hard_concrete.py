import math
from collections.abc import Iterable
from typing import cast

import torch

from sparsity.gates import Gate, Gated

__all__ = ["L0HardConcrete"]


class L0HardConcrete(Gated):
    """R = sum over gates g of |g| P(z_g != 0), the expected number of weights that are on, where g gates |g| weights.

    P(z != 0) = sigmoid(log_alpha - beta log(-gamma / zeta)). The model computes with w = theta z. In training mode,
    each use of the weight draws new gates:
        u ~ U(0, 1), s = sigmoid((log u - log(1 - u) + log_alpha) / beta), z = clamp(s (zeta - gamma) + gamma, 0, 1);
    in evaluation mode, and when folded, z = clamp(sigmoid(log_alpha) (zeta - gamma) + gamma, 0, 1). u comes from
    torch's global generator. theta and log_alpha are trained together. An optimizer that takes several gradients a step
    draws new noise for each, as with dropout.
    Weight decay: log_alpha has none, and theta has the expected decay, as in the authors' code. The training loop
    passes the optimizer's weight decay to `take_decay`; `backward` then adds the gradient of
    weight_decay / 2 * sum theta^2 P(z != 0) to theta and log_alpha. The smaller P(z != 0), the less a weight is
    decayed, and large weights push their gates to close. With AdamW this decay is coupled, as with the authors' Adam.
    Source: Louizos, Welling & Kingma, "Learning sparse neural networks through L0 regularization", 2017, arXiv
    1712.01312; |g| as in the authors' code, which counts the weights behind a gate, so that lam means the same per
    weight and per row. Departures: log_alpha starts without their N(0, 0.01^2) noise and is not clamped to
    [log 0.01, log 100]; the weight decay is not divided by 1 - droprate_init.
    weights: tensors of any shape, each the parameter of one module; `attach(model)` puts the gates there.
    per: "weight", one gate for each weight, or "row", one for each index of the first dimension (an output unit, a
        filter).
    droprate_init: in (0, 1). log_alpha starts at log(1 - droprate_init) - log(droprate_init), where P(z != 0) is above
        1 - droprate_init (0.83 at 0.5). The authors' code: 0.5 for layers in general, 0.2 for an MLP's inputs, 0.3 for
        WideResNets.
    gate_lr: learning rate of log_alpha, > 0; None for the learning rate of the weights. A gate is closed in evaluation
        if log_alpha < -2.40. Without the task's gradient, a gate of one weight gets there from 0 at lam * S = 11.3 (a
        gate of |g| weights at 11.3 / |g|; `_gated.py` defines S). Scikit-learn's digits, 640 steps of SGD: gate_lr 100
        closes 0.06, 0.09, 0.40, 0.97 and 0.99 of the gates at lam 1e-6, 1e-5, 3e-5, 1e-4 and 3e-4.
    decay: "expected", as above, or "plain": the optimizer alone decays all of theta.
    beta: temperature, in (0, 1]. gamma < 0, zeta > 1: s is stretched to (gamma, zeta), so that z is exactly 0 or 1 with
        positive probability.
    Returns a scalar in [0, number of weights].
    Cost: no extra gradient evaluation; per "weight" 1 x the weights of memory (log_alpha, which also has a gradient and
        optimizer state) and 5 x in the graph of a pass; per "row" 1 x in the graph (w). The decay's graph takes 3 x
        more and is freed before the penalty's is built.
    ValueError for gamma >= 0, zeta <= 1, beta outside (0, 1], droprate_init outside (0, 1), gate_lr <= 0, an
    unknown per or decay.
    """

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
            raise ValueError(f"L0HardConcrete: droprate_init must be in (0, 1) (a gate can learn), got {droprate_init}")
        if not 0 < beta <= 1:
            raise ValueError(f"L0HardConcrete: beta must be in (0, 1] (the temperature of the noise), got {beta}")
        if not -math.inf < gamma < 0:
            raise ValueError(f"L0HardConcrete: gamma must be < 0 (else no gate is ever exactly 0), got {gamma}")
        if not 1 < zeta < math.inf:
            raise ValueError(f"L0HardConcrete: zeta must be > 1 (else no gate is ever exactly 1), got {zeta}")
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
        """sum over weights of theta^2 P(z != 0), a differentiable scalar."""
        terms = [
            (theta.square() * gate.probability_open().view(gate.shape)).sum()
            for theta, gate in zip(self.weights, cast(Iterable[HardConcrete], self.gates), strict=True)
        ]
        return torch.stack(terms).sum()

    def backward(self, lam):
        if self.weight_decay and self.weights:
            (self.weight_decay / 2 * self.expected_square()).backward()
        return super().backward(lam)


class HardConcrete(Gate):
    """The gates of one weight, with the trained parameter `log_alpha` of shape (num_gates,)."""

    def __init__(self, weight, per_row: bool, droprate_init: float, beta: float, gamma: float, zeta: float):
        super().__init__(weight, per_row=per_row)
        self.log_alpha = self.parameter(weight, math.log(1 - droprate_init) - math.log(droprate_init))
        self.beta, self.gamma, self.zeta = beta, gamma, zeta

    def values(self, training):
        if training:
            noise = torch.rand_like(self.log_alpha).logit_()  # -inf at u = 0, which closes the gate
            s = torch.sigmoid((noise + self.log_alpha) / self.beta)
        else:
            s = torch.sigmoid(self.log_alpha)
        return (s * (self.zeta - self.gamma) + self.gamma).clamp(0, 1)

    def probability_open(self):
        return torch.sigmoid(self.log_alpha - self.beta * math.log(-self.gamma / self.zeta))
