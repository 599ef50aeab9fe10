"""Sparsity methods in plain PyTorch: regularizers, optimizers, pruning criteria, and masks.

A method is found by its file name: `sparsity.load("regularizers", "wcr")`. Importing `sparsity` imports no torch;
loading a method does.
"""

from sparsity._load import find, load, menu, names

__distribution__ = "sparsity-sweeps"
__all__ = ["find", "load", "menu", "names"]
