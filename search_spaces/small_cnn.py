"""Small residual networks on small images, trained for minutes: scikit-learn's digits, a laptop's CIFAR-10.

All values are ours, from sweeps on digits (docs/methods-on-digits.md). A narrow network has a smaller weight norm than
ResNet-18, so the same rho is a larger step: the range lies lower than the paper's. Short runs need more weight decay.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces.cnn import GRADIENT_METHODS

__all__ = ["FIXED", "KNOWN", "SPACE", "TUNED"]

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

TUNED = {
    "opt/lr": {
        "optimizer": {
            **dict.fromkeys(GRADIENT_METHODS, Float(0.02, 0.5, log=True)),
            "adamw": Float(3e-4, 3e-2, log=True),
            "sfw": Float(0.2, 2.0),
        }
    },
    "opt/weight_decay": {
        "optimizer": {
            **dict.fromkeys(GRADIENT_METHODS, Float(5e-4, 5e-2, log=True)),
            "adamw": Float(1e-3, 1.0, log=True),  # decoupled: its scale is that of the gradient methods over lr
        }
    },
}

FIXED = {
    "opt/lr": {"optimizer": {"sfw": 1.0, "adamw": 3e-3}},
    "opt/weight_decay": {"optimizer": {"sfw": 0.0, "adamw": 0.1}},
}
