"""Regularizers: one class per file, a penalty on the weights.

`R = WCR(weights)` holds the weights, and `R()` is the unscaled, differentiable penalty. Each class derives from
`sparsity.regularizer.Regularizer` and has a search range of lam in `lam_range`.

The section "Cost" of a docstring gives memory beside the weights and their gradients, in multiples of the weights' own.
"""

BASE = "sparsity.regularizer:Regularizer"  # of every class
