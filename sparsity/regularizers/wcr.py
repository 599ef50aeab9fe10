import math

from sparsity.regularizer import ClosedForm

__all__ = ["WCR"]


class WCR(ClosedForm):
    """R(W) = 1 / (V + eps), V the variance of a tensor's magnitudes, one term per weight tensor, summed over tensors.

    a_i = sqrt(w_i^2 + smooth), V = mean(a^2) - mean(a)^2 = mean((a - mean(a))^2), the form computed: it keeps its
    digits in float32 when all magnitudes are close to equal.
    dR/dw_i = -(2/n) (1 - mean(a)/a_i) w_i / (V + eps)^2: weights below the mean magnitude shrink, those above it grow.
    Source: Yun, Jo & Lee, weight concentration regularization, 2025, arXiv 2511.14282, eqs. 1-3.
    weights: tensors of any shape; the caller leaves out biases and norm scales.
    smooth: in units of w^2, makes |w| differentiable at 0. eps: in units of w^2, bounds R by 1/eps at V = 0. Both ours.
    The gradient is (1 + eps/V)^-2 times that at eps = 0, so eps makes a relative difference of about 2 eps/V where V is
    well above eps. As V falls the gradient grows like V^-1.5 until V is near eps: LoRA's B, whose first AdamW step
    makes all magnitudes nearly equal, needs eps = 1e-4 (search_spaces/lora.py).
    Cost: no extra gradient evaluation; up to 1 x the weights of memory in the backward pass (its gradient).
    Returns a scalar in (0, number of tensors / eps], in units of 1/w^2. ValueError if smooth <= 0 or eps <= 0.
    """

    def __init__(self, weights, *, smooth: float = 1e-8, eps: float = 1e-8):
        if not 0 < smooth < math.inf:
            raise ValueError(f"WCR: smooth must be > 0 and finite (it makes |w| differentiable at 0), got {smooth}")
        if not 0 < eps < math.inf:
            raise ValueError(f"WCR: eps must be > 0 and finite (it guards tensors of equal magnitudes), got {eps}")
        super().__init__(weights)
        self.smooth, self.eps = smooth, eps
        self.kernel = ("wcr", smooth, eps)

    def magnitude(self, w):
        return (w * w).add_(self.smooth).sqrt_()

    def statistics(self, w):
        a = self.magnitude(w)
        mean = a.mean()
        return mean, (a - mean).square().mean()

    def merge(self, n, *statistics):  # the law of total variance: within blocks and between them
        mean, variance = statistics
        share = n / n.sum()
        total = (share * mean).sum()
        return total, (share * (variance + (mean - total) ** 2)).sum()

    def value(self, n, mean, variance):
        return 1 / (variance + self.eps)

    def gradient(self, scale, n, mean, variance):
        factor = scale * (-2 / n) / (variance + self.eps) ** 2

        def formula(w):
            a = self.magnitude(w)
            return (a - mean) / a * w * factor  # (1 - mean/a) w, with the digits of a - mean kept

        return formula
