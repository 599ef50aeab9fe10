"""UNets for segmentation: the values of the WCR paper, and ranges around them.

Source: Yun, Jo & Lee 2025 (arXiv 2511.14282), tables 2, 4 and 5. The ranges are ours, and so are l1 and Hoyer-square,
which the paper does not try on segmentation. It does not state its weight decay, so `--tuning fair` searches it.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces import SearchSpace, by_optimizer, by_regularizer
from search_spaces.cnn import GRADIENT_METHODS

__all__ = ["SEARCH_SPACE"]

RANGES = {
    "optimizer": Categorical(("sgd", "sam", "s2sam")),
    "regularizer": Categorical(("none", "l1", "hoyer_square", "wcr")),
    "lam": by_regularizer(
        l1=Float(1e-7, 1e-4, log=True),
        hoyer_square=Float(1e-7, 1e-4, log=True),
        wcr=Float(1e-6, 1e-3, log=True),
    ),
    "opt/rho": by_optimizer(
        sam=Float(0.02, 0.5, log=True),
        s2sam=Float(0.02, 0.5, log=True),
        cram=Float(0.01, 0.2, log=True),
    ),
}

INITIAL_POINTS = {
    "lam": by_regularizer(l1=1e-6, hoyer_square=1e-6, wcr=1e-5),  # WCR: table 4; the others as in cnn.py
    "opt/rho": by_optimizer(sam=0.25, s2sam=0.25, cram=0.05),  # table 5
}

TUNED = {
    "opt/lr": by_optimizer(**dict.fromkeys((*GRADIENT_METHODS, "sfw"), Float(1e-3, 1e-1, log=True))),
    "opt/weight_decay": by_optimizer(**dict.fromkeys(GRADIENT_METHODS, Float(1e-5, 1e-2, log=True))),
}

OVERRIDES = {
    "opt/lr": by_optimizer(sfw=0.01),  # table 5; appendix C.1 says 1.0 for all runs of SFW
    "opt/weight_decay": by_optimizer(sfw=0.0),  # appendix C.1
    "reg/init": by_regularizer(weight_factorization="weights"),  # keep the encoder's pretrained weights
}

SEARCH_SPACE = SearchSpace(ranges=RANGES, tuned=TUNED, initial_points=INITIAL_POINTS, overrides=OVERRIDES)
