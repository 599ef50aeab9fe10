"""Pretrained Vision Transformers, fine-tuned: the ranges and values of the WCR paper.

Source: Yun, Jo & Lee 2025 (arXiv 2511.14282), tables 1, 4, 5 and 10. The ranges of rho are ours, and so are l1 and
Hoyer-square, which the paper tries only on CNNs and language models. The paper does not state its weight decay, so
`--tuning fair` searches it.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces import SearchSpace, by_optimizer, by_regularizer
from search_spaces.cnn import GRADIENT_METHODS

__all__ = ["SEARCH_SPACE"]

RANGES = {
    "optimizer": Categorical(("sgd", "sam", "s2sam", "cram")),  # table 1, which leaves SFW out for the ViT
    "regularizer": Categorical(("none", "l1", "hoyer_square", "wcr")),
    "lam": by_regularizer(
        l1=Float(1e-7, 1e-4, log=True),
        hoyer_square=Float(1e-7, 1e-4, log=True),
        wcr=Float(1e-5, 1e-1, log=True),  # table 10
    ),
    "opt/rho": by_optimizer(
        sam=Float(0.02, 0.5, log=True),
        s2sam=Float(0.02, 0.5, log=True),
        cram=Float(0.01, 0.2, log=True),
    ),
}

INITIAL_POINTS = {
    "lam": by_regularizer(l1=1e-6, hoyer_square=1e-6, wcr=1e-2),  # WCR: table 4; the others as in cnn.py
    "opt/rho": by_optimizer(sam=0.25, s2sam=0.25, cram=0.05),  # table 5
}

TUNED = {
    "opt/lr": by_optimizer(
        **dict.fromkeys(GRADIENT_METHODS, Float(1e-4, 1e-2, log=True)), sfw=Float(0.1, 2.0, log=True)
    ),
    "opt/weight_decay": by_optimizer(**dict.fromkeys(GRADIENT_METHODS, Float(1e-5, 1e-2, log=True))),
}

OVERRIDES = {
    "opt/lr": by_optimizer(sfw=1.0),
    "opt/weight_decay": by_optimizer(sfw=0.0),
    "reg/init": by_regularizer(weight_factorization="weights"),  # keep the pretrained weights
}

SEARCH_SPACE = SearchSpace(ranges=RANGES, tuned=TUNED, initial_points=INITIAL_POINTS, overrides=OVERRIDES)
