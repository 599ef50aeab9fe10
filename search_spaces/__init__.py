"""Where to search, as data: parameter name -> Optuna distribution, and the values that are known to work.

A file is an architecture family. `SPACE` maps a parameter to its distribution, or, where it exists only beside certain
choices, to `{parent: {choice: distribution}}`: rho only beside SAM-family optimizers, each with a range of its own.
`TUNED` has the same shape, and holds what the fair protocol searches for every combination, baselines included: the
learning rate and the weight decay. `--tuning paper` leaves it out and trains with the sweep's own values.
`KNOWN` has a value in the place of a distribution: each combination's first trial; that of a `TUNED` parameter is the
sweep's own value. `FIXED` has what a method needs in the place of the value that a sweep gives to all.
"""

import sparsity_sweeps  # noqa: F401 (its checks: this is the first of our packages that a sweep's file imports)

__distribution__ = "sparsity-sweeps"
