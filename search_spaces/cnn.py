"""CIFAR-sized CNNs (ResNet-18, ResNet-50, WideResNet) trained for 200 epochs: the values of the WCR paper.

Source: Yun, Jo & Lee 2025 (arXiv 2511.14282). Table 1 names the five optimizers, tables 4 and 5 their settings, table
11 the regularizers. The paper does not state its weight decay, so `--tuning fair` searches it.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces import SearchSpace, by_optimizer, by_regularizer

__all__ = ["GRADIENT_METHODS", "SEARCH_SPACE"]

RANGES = {
    "optimizer": Categorical(("sgd", "sam", "s2sam", "cram", "sfw")),  # table 1
    "regularizer": Categorical(("none", "l1", "hoyer_square", "wcr")),
    "lam": by_regularizer(
        # Table 11 tries 1e-6 to 1e-4 with SAM. Its lowest value is best for l1 and Hoyer-square, so go lower.
        l1=Float(1e-8, 1e-4, log=True),
        hoyer_square=Float(1e-8, 1e-4, log=True),
        wcr=Float(1e-6, 1e-3, log=True),  # table 9
        weight_factorization=Float(1e-6, 1e-3, log=True),  # ours: its docstring says how lam depends on the steps
    ),
    "opt/rho": by_optimizer(
        sam=Float(0.05, 1.0, log=True),
        s2sam=Float(0.05, 1.0, log=True),
        friendly_sam=Float(0.05, 1.0, log=True),
        safe=Float(0.02, 0.5, log=True),
        cram=Float(0.01, 0.2, log=True),
    ),
    "opt/admm_lam": by_optimizer(safe=Float(1e-5, 1e-2, log=True)),  # the authors' scripts have 1e-4 and 1e-3
    "opt/tau": by_optimizer(sfw=Float(3.0, 50.0, log=True)),
    "opt/k_fraction": by_optimizer(sfw=Float(1e-3, 0.1, log=True)),
}

INITIAL_POINTS = {
    # l1 and Hoyer-square: best at sparsity 0.96 in table 11. WCR: table 4.
    "lam": by_regularizer(l1=1e-6, hoyer_square=1e-6, wcr=1e-5, weight_factorization=1e-4),
    # Table 5; that of SAFE is its authors', and that of Friendly-SAM is SAM's.
    "opt/rho": by_optimizer(sam=0.5, s2sam=0.5, friendly_sam=0.5, safe=0.1, cram=0.05),
    "opt/admm_lam": by_optimizer(safe=1e-4),
    # The defaults of SFW, for 200 epochs. Short runs need smaller values (small_cnn.py).
    "opt/tau": by_optimizer(sfw=15.0),
    "opt/k_fraction": by_optimizer(sfw=0.05),
}

GRADIENT_METHODS = ("sgd", "sam", "s2sam", "friendly_sam", "safe", "cram")
TUNED = {
    "opt/lr": by_optimizer(**dict.fromkeys(GRADIENT_METHODS, Float(0.02, 0.5, log=True)), sfw=Float(0.2, 2.0)),
    "opt/weight_decay": by_optimizer(**dict.fromkeys(GRADIENT_METHODS, Float(1e-4, 5e-3, log=True))),
}

OVERRIDES = {
    "opt/lr": by_optimizer(sfw=1.0),  # table 5: Frank-Wolfe's lr has a scale of its own
    "opt/weight_decay": by_optimizer(sfw=0.0),  # appendix C.1: the polytope replaces it
    "opt/sparsities": by_optimizer(cram=0.95),  # the authors' configuration of CrAM for ResNet-18 on CIFAR-10
    "opt/sparsity": by_optimizer(safe=0.95),  # the authors' scripts of SAFE for CIFAR-10
}

SEARCH_SPACE = SearchSpace(ranges=RANGES, tuned=TUNED, initial_points=INITIAL_POINTS, overrides=OVERRIDES)
