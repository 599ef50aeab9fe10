"""Where to search, as data: parameter name -> Optuna distribution, and the values that are known to work.

A file is an architecture family. `SPACE` maps a parameter to its distribution, or, where it exists only beside certain
choices, to `{parent: {choice: distribution}}`: rho only beside SAM-family optimizers, each with a range of its own.
`KNOWN` has the same shape, a value in the place of a distribution: each arm's first trial. So has `FIXED`: what a
method needs in the place of the value that a sweep gives to all.
"""

import sparsity_sweeps  # noqa: F401 (its checks: this is the first of our packages that a sweep's file imports)

__distribution__ = "sparsity-sweeps"
