import math

from sparsity.closed_form import ClosedForm
from sparsity.ranges import Range

__all__ = ["HoyerSquare"]


class HoyerSquare(ClosedForm):
    """Hoyer-square penalty: R(W) = (sum|w|)^2 / sum(w^2), summed over weight tensors.

    Scale-invariant, and per tensor between 1 (one nonzero weight) and n (all magnitudes equal). With A = sum|w| and
    Q = sum(w^2) + eps, dR/dw_i = 2 (A/Q) sign(w_i) - 2 (A/Q)^2 w_i. A tensor of zeros has R = 0 and gradient 0.

    Args:
        weights: Tensors of any shape. The caller should leave out biases and normalization scales.
        eps: Added to sum(w^2), in units of w^2, >= 1e-30, so that a tensor of zeros scores 0. Not in the reference.

    Raises:
        ValueError: If eps is too small or not finite.

    Reference:
        Yang, Wen & Li, "DeepHoyer: learning sparser neural network with differentiable scale-invariant sparsity
        measures", ICLR 2020, the Hoyer-Square measure H_S(W).

    Cost:
        No extra gradient evaluation. Up to 1 x the weights of memory in the backward pass (the penalty's gradient).
    """

    # search_spaces/cnn.py: 1e-8 to 1e-4; small_cnn.py: 1e-5 to 1e-3, initial 1e-4
    lam_range = Range(1e-8, 1e-3, 1e-4)

    def __init__(self, weights, *, eps: float = 1e-12):
        if not 1e-30 <= eps < math.inf:
            raise ValueError(f"HoyerSquare: eps must be >= 1e-30 and finite (float32 divides by it), got {eps}")
        super().__init__(weights)
        self.eps = eps
        self.kernel = ("hoyer_square", eps)

    def formula(self, w):
        return w.abs().sum() ** 2 / (w.square().sum() + self.eps)

    def statistics(self, w):
        return w.abs().sum(), w.square().sum()

    def value(self, n, absolute, square):
        return absolute**2 / (square + self.eps)

    def gradient(self, scale, n, absolute, square):
        ratio = absolute / (square + self.eps)
        push, pull = 2 * scale * ratio, 2 * scale * ratio**2
        return lambda w: w.sign() * push - w * pull
