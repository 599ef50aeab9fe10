"""Pretrained Vision Transformers, fine-tuned: the ranges and values of the WCR paper.

Source: Yun, Jo & Lee 2025 (arXiv 2511.14282), tables 4, 5 and 10: lam of WCR from 1e-5 to 1e-1, 1e-2 in its runs; rho
0.25, lowered from the methods' own 0.5, at which training was unstable. The ranges of rho are ours, and so is all of l1
and Hoyer-square, which the paper has for CNNs and LLMs alone.
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
            "l1": Float(1e-6, 1e-4, log=True),
            "hoyer_square": Float(1e-7, 1e-4, log=True),
            "wcr": Float(1e-5, 1e-1, log=True),
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
    "lam": {"regularizer": {"l1": 1e-5, "hoyer_square": 1e-5, "wcr": 1e-2}},
    "opt/rho": {"optimizer": {"sam": 0.25, "s2sam": 0.25, "cram": 0.05}},
}
