"""Language models fine-tuned with LoRA: the arms of the WCR paper, AdamW alone, and what its authors left open.

Source: Yun, Jo & Lee 2025 (arXiv 2511.14282), section 5.1, tables 6 and 12: AdamW with no penalty, l1, Hoyer-square and
WCR, of which three values of lam each were tried on Qwen2.5-1.5B. Which, the text at hand has lost, and the paper has
no SAM for language models: all ranges here are ours. SAM's family works on AdamW (--optimizer sam).

WCR on the factors has eps 1e-4. B starts at 0 and AdamW's first step makes its magnitudes nearly equal, so that V is
near 0: with eps 1e-8 the penalty's gradient is 72 times the loss's at lam 1e-6 on a tiny network, and AdamW's second
moment does not recover from it; with 1e-4 it is at most 0.06 times. At lam 1e-4, the end of the range, it is 6 times.
Merged weights (--protocol regularize=merged) have an ordinary variance: give --reg eps=1e-8 and --regularizer wcr.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

__all__ = ["FIXED", "KNOWN", "SPACE", "TUNED"]

SPACE = {
    "optimizer": Categorical(("adamw",)),
    "regularizer": Categorical(("none", "l1", "hoyer_square", "wcr")),
    "lam": {
        "regularizer": {
            "l1": Float(1e-7, 1e-3, log=True),
            "hoyer_square": Float(1e-7, 1e-3, log=True),
            "wcr": Float(1e-7, 1e-4, log=True),
        }
    },
    "opt/rho": {
        "optimizer": {
            "sam": Float(0.005, 0.5, log=True),
            "s2sam": Float(0.005, 0.5, log=True),
            "cram": Float(0.005, 0.5, log=True),
        }
    },
}

KNOWN = {
    "lam": {"regularizer": {"l1": 1e-6, "hoyer_square": 1e-6, "wcr": 1e-6}},
    "opt/rho": {"optimizer": {"sam": 0.05, "s2sam": 0.05, "cram": 0.05}},
}

OPTIMIZERS = ("adamw", "sam", "s2sam", "cram")
TUNED = {
    "opt/lr": {"optimizer": dict.fromkeys(OPTIMIZERS, Float(5e-5, 2e-3, log=True))},  # lost in the text of table 6
    "opt/weight_decay": {"optimizer": dict.fromkeys(OPTIMIZERS, Float(1e-4, 1e-1, log=True))},  # table 6: 0
}

FIXED = {
    "opt/base": {"optimizer": {"sam": "adamw", "s2sam": "adamw", "cram": "adamw"}},
    "reg/eps": {"regularizer": {"wcr": 1e-4}},  # of the order of A's initial variance; --reg eps= overrides it
}
