"""Search spaces as data: parameter name -> Optuna distribution, and initial values.

Each file covers one architecture family. `SPACE` maps a parameter to its distribution. A parameter that exists only
with certain choices maps to `{parent: {choice: distribution}}`; for example, each optimizer of the SAM family has its
own range of rho.
`TUNED` has the same structure. It holds the learning rate and the weight decay, which `--tuning fair` searches for
every combination, baselines included. `--tuning paper` ignores it and trains with the sweep's own values.
`KNOWN` has values in place of distributions: the initial point, each combination's first configuration. `TUNED`
parameters start from the sweep's own values instead. `FIXED` has values that replace the sweep's own for the methods
that need others.
"""

import sparsity_sweeps  # noqa: F401 (its checks: a sweep's file imports this package first)

__distribution__ = "sparsity-sweeps"
