"""UNets for segmentation: the values of the WCR paper, and ranges around them.

Source: Yun, Jo & Lee 2025 (arXiv 2511.14282), tables 4 and 5: lam 1e-5 for WCR; rho 0.25 for SAM and S2SAM, lowered
from the methods' own 0.5, at which training was unstable, and 0.05 for CrAM. The ranges are ours, and so is all of l1
and Hoyer-square, which the paper does not have for segmentation.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces.cnn import FIXED

__all__ = ["FIXED", "KNOWN", "SPACE"]

SPACE = {
    "optimizer": Categorical(("sgd", "sam", "s2sam")),
    "regularizer": Categorical(("none", "l1", "hoyer_square", "wcr")),
    "lam": {
        "regularizer": {
            "l1": Float(1e-7, 1e-4, log=True),
            "hoyer_square": Float(1e-7, 1e-4, log=True),
            "wcr": Float(1e-6, 1e-3, log=True),
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
    "lam": {"regularizer": {"l1": 1e-5, "hoyer_square": 1e-5, "wcr": 1e-5}},
    "opt/rho": {"optimizer": {"sam": 0.25, "s2sam": 0.25, "cram": 0.05}},
}
