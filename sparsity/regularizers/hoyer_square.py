import math

from sparsity.regularizer import ClosedForm

__all__ = ["HoyerSquare"]


class HoyerSquare(ClosedForm):
    """R(W) = (sum|w|)^2 / sum(w^2), one term per weight tensor, summed over tensors.

    dR/dw_i = 2 (A/Q) sign(w_i) - 2 (A/Q)^2 w_i with A = sum|w|, Q = sum(w^2) + eps; 0 at an all-zero tensor.
    Source: Yang, Wen & Li, "DeepHoyer", ICLR 2020, the Hoyer-Square measure H_S(W) and its gradient.
    weights: tensors of any shape; the caller leaves out biases and norm scales.
    eps: added to the denominator, in units of w^2, so an all-zero tensor scores 0 (ours).
    Cost: no extra gradient evaluation; up to 1 x the weights of memory in the backward pass (its gradient).
    Returns a scalar in [0, number of weights], same for w and c*w up to eps. ValueError if eps <= 0.
    """

    def __init__(self, weights, *, eps: float = 1e-12):
        if not 0 < eps < math.inf:
            raise ValueError(f"HoyerSquare: eps must be > 0 and finite (it guards all-zero tensors), got {eps}")
        super().__init__(weights)
        self.eps = eps
        self.kernel = ("hoyer_square", eps)

    def statistics(self, w):
        return w.abs().sum(), w.square().sum()

    def value(self, n, absolute, square):
        return absolute**2 / (square + self.eps)

    def gradient(self, scale, n, absolute, square):
        ratio = absolute / (square + self.eps)
        push, pull = 2 * scale * ratio, 2 * scale * ratio**2
        return lambda w: w.sign() * push - w * pull
