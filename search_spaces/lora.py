"""Language models fine-tuned with LoRA: the arms of the WCR paper, with our ranges.

Source: Yun, Jo & Lee 2025 (arXiv 2511.14282), section 5.1, tables 6 and 12: AdamW with no penalty, l1, Hoyer-square and
WCR, with three values of lam each on Qwen2.5-1.5B. Our copy of the paper's text lacks these values, so all ranges are
ours. The paper does not use SAM for language models. Here SAM, S2SAM, Friendly-SAM and CrAM use AdamW as base
(--optimizer sam).

WCR on the LoRA factors uses eps 1e-4. B starts at 0, and AdamW's first step makes its magnitudes nearly equal, so V is
near 0. On a tiny network at lam 1e-6, the penalty's gradient is then 72 times the loss's with eps 1e-8, and AdamW's
second moment does not recover; with eps 1e-4 it is at most 0.06 times. At lam 1e-4, the end of the range, it is 6
times. The variance of merged weights (--task-arg regularize=merged) is not near 0: use --reg eps=1e-8 with
--regularizer wcr.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces import SearchSpace, by_optimizer, by_regularizer

__all__ = ["SEARCH_SPACE"]

RANGES = {
    "optimizer": Categorical(("adamw",)),
    "regularizer": Categorical(("none", "l1", "hoyer_square", "wcr")),
    "lam": by_regularizer(
        l1=Float(1e-7, 1e-3, log=True),
        hoyer_square=Float(1e-7, 1e-3, log=True),
        wcr=Float(1e-7, 1e-4, log=True),
    ),
    "opt/rho": by_optimizer(
        sam=Float(0.005, 0.5, log=True),
        s2sam=Float(0.005, 0.5, log=True),
        friendly_sam=Float(0.005, 0.5, log=True),
        cram=Float(0.005, 0.5, log=True),
    ),
}

INITIAL_POINTS = {
    "lam": by_regularizer(l1=1e-6, hoyer_square=1e-6, wcr=1e-6),
    "opt/rho": by_optimizer(sam=0.05, s2sam=0.05, friendly_sam=0.05, cram=0.05),
}

OPTIMIZERS = ("adamw", "sam", "s2sam", "friendly_sam", "cram")
TUNED = {
    "opt/lr": by_optimizer(**dict.fromkeys(OPTIMIZERS, Float(5e-5, 2e-3, log=True))),  # our copy of table 6 lacks it
    "opt/weight_decay": by_optimizer(**dict.fromkeys(OPTIMIZERS, Float(1e-4, 1e-1, log=True))),  # table 6: 0
}

OVERRIDES = {
    "opt/base": by_optimizer(sam="adamw", s2sam="adamw", friendly_sam="adamw", cram="adamw"),
    "reg/eps": by_regularizer(wcr=1e-4),  # of the order of A's initial variance; --reg eps= overrides it
}

SEARCH_SPACE = SearchSpace(ranges=RANGES, tuned=TUNED, initial_points=INITIAL_POINTS, overrides=OVERRIDES)
