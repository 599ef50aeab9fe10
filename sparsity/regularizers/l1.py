from sparsity.closed_form import ClosedForm
from sparsity.ranges import Range

__all__ = ["L1"]


class L1(ClosedForm):
    """L1 penalty: R(W) = sum|w|, summed over weight tensors.

    dR/dw = sign(w), 0 at w = 0. R is in units of w.

    Args:
        weights: Tensors of any shape. The caller should leave out biases and normalization scales.

    Reference:
        Tibshirani, "Regression shrinkage and selection via the lasso", J. R. Stat. Soc. B 58, 1996, as a penalty. A
        baseline of the WCR paper (arXiv 2511.14282, table 11).

    Cost:
        No extra gradient evaluation. Up to 1 x the weights of memory in the backward pass (the penalty's gradient).
    """

    # search_spaces/cnn.py: 1e-8 to 1e-4; small_cnn.py: 1e-6 to 1e-3, initial 1e-5
    lam_range = Range(1e-8, 1e-3, 1e-5)
    kernel = ("l1",)

    def formula(self, w):
        return w.abs().sum()

    def statistics(self, w):
        return (w.abs().sum(),)

    def value(self, n, total):
        return total.clone()  # autograd forbids to return the saved tensor itself

    def gradient(self, scale, n, total):
        return lambda w: w.sign() * scale
