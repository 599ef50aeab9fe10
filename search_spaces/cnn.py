"""CIFAR-sized CNNs (ResNet-18, ResNet-50, WideResNet) trained long: the ranges and values of the WCR paper.

Source: Yun, Jo & Lee 2025 (arXiv 2511.14282), tables 4, 5 and 11; Hoyer-square's range is ours.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

__all__ = ["FIXED", "KNOWN", "SPACE"]

SPACE = {
    "optimizer": Categorical(("sgd", "sam", "s2sam")),
    "regularizer": Categorical(("none", "l1", "hoyer_square", "wcr")),
    "lam": {
        "regularizer": {
            "l1": Float(1e-6, 1e-4, log=True),
            "hoyer_square": Float(1e-6, 1e-3, log=True),
            "wcr": Float(1e-6, 1e-3, log=True),
        }
    },
    "opt/rho": {
        "optimizer": {
            "sam": Float(0.05, 1.0, log=True),
            "s2sam": Float(0.05, 1.0, log=True),
            "cram": Float(0.01, 0.2, log=True),
        }
    },
    "opt/tau": {"optimizer": {"sfw": Float(3.0, 50.0, log=True)}},
    "opt/k_fraction": {"optimizer": {"sfw": Float(1e-3, 0.1, log=True)}},
}

KNOWN = {
    "lam": {"regularizer": {"l1": 1e-5, "hoyer_square": 1e-4, "wcr": 1e-5}},
    "opt/rho": {"optimizer": {"sam": 0.5, "s2sam": 0.5, "cram": 0.05}},
    "opt/tau": {"optimizer": {"sfw": 15.0}},  # SFW's own, for 200 epochs; short runs need less (small_cnn.py)
    "opt/k_fraction": {"optimizer": {"sfw": 0.05}},
}

# Frank-Wolfe's steps have a scale of their own, and its polytope takes the place of weight decay.
FIXED = {"opt/lr": {"optimizer": {"sfw": 1.0}}, "opt/weight_decay": {"optimizer": {"sfw": 0.0}}}
