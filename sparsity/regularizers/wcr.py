import math

from sparsity.closed_form import ClosedForm
from sparsity.ranges import Range

__all__ = ["WCR"]


class WCR(ClosedForm):
    """Weight concentration: R(W) = 1 / (var(|w|) + eps), summed over weight tensors.

    V = var(|w|) is the variance of a tensor's magnitudes a_i = sqrt(w_i^2 + smooth). It is computed as
    mean((a - mean(a))^2), with means of differences from the first magnitude. This keeps its digits in float32 when all
    magnitudes are nearly equal; where they are equal, V and the gradient are exactly 0.

        dR/dw_i = -(2/n) (1 - mean(a) / a_i) w_i / (V + eps)^2

    Weights below the mean magnitude shrink, those above it grow. R is in units of 1/w^2, at most 1/eps per tensor.

    Choosing eps: the gradient is (1 + eps/V)^-2 times that at eps = 0, so eps makes a relative difference of about
    2 eps/V where V is well above eps. As V falls, the gradient grows like V^-1.5 until V is near eps. LoRA's factor B,
    whose first AdamW step makes all magnitudes nearly equal, needs eps = 1e-4 (search_spaces/lora.py).

    Args:
        weights: Tensors of any shape. The caller should leave out biases and normalization scales.
        smooth: In units of w^2, >= 1e-36; makes |w| differentiable at 0. Not in the reference.
        eps: In units of w^2, >= 1e-18; bounds R where V is 0. Not in the reference.

    Raises:
        ValueError: If smooth or eps is too small or not finite.

    Reference:
        Yun, Jo & Lee, weight concentration regularization, 2025, arXiv 2511.14282, equations 1 to 3.

    Cost:
        No extra gradient evaluation. Up to 1 x the weights of memory in the backward pass (the penalty's gradient).
    """

    # search_spaces/cnn.py: 1e-6 to 1e-3; small_cnn.py: 1e-6 to 1e-4; initial 1e-5 in both
    lam_range = Range(1e-6, 1e-3, 1e-5)

    def __init__(self, weights, *, smooth: float = 1e-8, eps: float = 1e-8):
        if not 1e-36 <= smooth < math.inf:
            raise ValueError(f"WCR: smooth must be >= 1e-36 and finite (float32 rounds less to 0), got {smooth}")
        if not 1e-18 <= eps < math.inf:
            raise ValueError(f"WCR: eps must be >= 1e-18 and finite (float32 rounds lower squares to 0), got {eps}")
        super().__init__(weights)
        self.smooth, self.eps = smooth, eps
        self.kernel = ("wcr", smooth, eps)

    def formula(self, w):
        a = (w.square() + self.smooth).sqrt()
        return 1 / ((a - _first(a)).var(correction=0) + self.eps)

    def magnitude(self, w):
        return (w * w).add_(self.smooth).sqrt_()

    def statistics(self, w):
        a = self.magnitude(w)
        first = _first(a)
        mean = first + (a - first).mean()
        return mean, (a - mean).square().mean()

    def merge(self, n, *statistics):  # law of total variance
        mean, variance = statistics
        share = n / n.sum()
        total = mean[0] + (share * (mean - mean[0])).sum()
        return total, (share * (variance + (mean - total) ** 2)).sum()

    def value(self, n, mean, variance):
        return 1 / (variance + self.eps)

    def gradient(self, scale, n, mean, variance):
        factor = scale * (-2 / n) / (variance + self.eps) ** 2

        def slope(w):
            a = self.magnitude(w)
            return (a - mean) / a * w * factor  # (1 - mean/a) w, without its loss of digits

        return slope


def _first(a):
    """The first magnitude: equal magnitudes minus it have a mean and a variance of exactly 0."""
    return a[(0,) * a.dim()].detach()
