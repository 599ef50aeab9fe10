"""Sparsity methods in plain PyTorch.

Regularizers, optimizers and pruning criteria are found by their file names: `sparsity.load("regularizers", "wcr")` is
the class WCR. `sparsity.masks` turns the scores of a criterion into masks. Importing `sparsity` does not import torch;
loading a method does.
"""

from sparsity.registry import check, load, names

__distribution__ = "sparsity-sweeps"
__all__ = ["check", "load", "names"]
