"""Small residual networks on small images, trained for minutes: scikit-learn's digits, a laptop's CIFAR-10.

The values known are ours, from the digits sweep (README.md). A narrow network has a smaller weight norm than ResNet-18,
so the same rho is a larger step: the range sits lower than the paper's.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

__all__ = ["KNOWN", "SPACE"]

SPACE = {
    "optimizer": Categorical(("sgd", "sam", "s2sam")),
    "regularizer": Categorical(("none", "hoyer_square", "wcr")),
    "lam": {
        "regularizer": {
            "l1": Float(1e-6, 1e-3, log=True),
            "hoyer_square": Float(1e-5, 1e-3, log=True),
            "wcr": Float(1e-6, 1e-4, log=True),
        }
    },
    "opt/rho": {"optimizer": {"sam": Float(0.02, 0.5, log=True), "s2sam": Float(0.02, 0.5, log=True)}},
}

KNOWN = {
    "lam": {"regularizer": {"l1": 1e-5, "hoyer_square": 1e-4, "wcr": 1e-5}},
    "opt/rho": {"optimizer": {"sam": 0.1, "s2sam": 0.1}},
}
