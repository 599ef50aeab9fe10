"""Small residual networks on small images, trained for minutes: scikit-learn's digits, a laptop's CIFAR-10.

The values known are ours, from the digits sweep (README.md). A narrow network has a smaller weight norm than ResNet-18,
so the same rho is a larger step: the range sits lower than the paper's.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces.cnn import FIXED

__all__ = ["FIXED", "KNOWN", "SPACE"]

SPACE = {
    "optimizer": Categorical(("sgd", "sam", "s2sam")),
    "regularizer": Categorical(("none", "hoyer_square", "wcr")),
    "lam": {
        "regularizer": {
            "l1": Float(1e-6, 1e-3, log=True),
            "hoyer_square": Float(1e-5, 1e-3, log=True),
            "wcr": Float(1e-6, 1e-4, log=True),
            "l0_hard_concrete": Float(1e-4, 2e-2, log=True),
            "concave_mask": Float(1e-4, 1e-2, log=True),
        }
    },
    "opt/rho": {
        "optimizer": {
            "sam": Float(0.02, 0.5, log=True),
            "s2sam": Float(0.02, 0.5, log=True),
            "cram": Float(0.01, 0.2, log=True),
        }
    },
}

KNOWN = {
    "lam": {
        "regularizer": {"l1": 1e-5, "hoyer_square": 1e-4, "wcr": 1e-5, "l0_hard_concrete": 5e-3, "concave_mask": 1e-3}
    },
    "opt/rho": {"optimizer": {"sam": 0.1, "s2sam": 0.1, "cram": 0.05}},
}
