"""Sparsity methods in plain PyTorch: regularizers, optimizers, pruning criteria, and masks.

A method is found by its file name: `sparsity.load("regularizers", "wcr")`. Importing `sparsity` imports no torch;
loading a method does.
"""

from sparsity.registry import choices, find, load, names

__distribution__ = "sparsity-sweeps"
__all__ = ["choices", "find", "load", "names"]
