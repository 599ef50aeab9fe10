from sparsity.regularizer import ClosedForm

__all__ = ["L1"]


class L1(ClosedForm):
    """R(W) = sum|w|, summed over tensors; dR/dw = sign(w), 0 at w = 0.

    Source: Tibshirani, "Regression shrinkage and selection via the lasso", J. R. Stat. Soc. B 58, 1996, as a penalty.
    A baseline of the WCR paper (arXiv 2511.14282, table 11).
    weights: tensors of any shape; the caller leaves out biases and norm scales.
    Returns a scalar >= 0, in units of w.
    Cost: no extra gradient evaluation; up to 1 x the weights of memory in the backward pass (its gradient).
    """

    kernel = ("l1",)

    def statistics(self, w):
        return (w.abs().sum(),)

    def value(self, n, total):
        return total.clone()

    def gradient(self, scale, n, total):
        return lambda w: w.sign() * scale
