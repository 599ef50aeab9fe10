"""Small residual networks on small images, trained for minutes: scikit-learn's digits, a laptop's CIFAR-10.

All values are ours, from sweeps on digits (docs/methods-on-digits.md). A narrow network has a smaller weight norm than
ResNet-18, so the same rho is a larger relative step, and the range is lower than the paper's. Short runs need more
weight decay.
"""

from typing import Any

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces import SearchSpace, by_optimizer, by_regularizer
from search_spaces.cnn import GRADIENT_METHODS

__all__ = ["SEARCH_SPACE"]

RANGES: dict[str, Any] = {
    "optimizer": Categorical(("sgd", "sam", "s2sam")),
    "regularizer": Categorical(("none", "hoyer_square", "wcr")),
    "lam": by_regularizer(
        l1=Float(1e-6, 1e-3, log=True),
        hoyer_square=Float(1e-5, 1e-3, log=True),
        wcr=Float(1e-6, 1e-4, log=True),
        l0_hard_concrete=Float(1e-6, 1e-3, log=True),  # closes 0.06 to over 0.99 of the gates at GATE_LR
        concave_mask=Float(1e-5, 3e-4, log=True),  # 0.02 to over 0.98
        weight_factorization=Float(1e-3, 1e-1, log=True),
    ),
    "opt/rho": by_optimizer(
        sam=Float(0.02, 0.5, log=True),
        s2sam=Float(0.02, 0.5, log=True),
        friendly_sam=Float(0.02, 0.5, log=True),
        safe=Float(0.02, 0.5, log=True),
        cram=Float(0.01, 0.2, log=True),
    ),
    "opt/admm_lam": by_optimizer(safe=Float(0.01, 1.0, log=True)),
    # SFW's docstring says how tau depends on the number of steps. On digits, tau 15 leaves the initial weights in place
    # after 640 steps. With a smaller tau the network learns more slowly: tau 2 reaches a dense accuracy of 0.98 in 160
    # steps, tau 1 reaches 0.87 in 160 and 0.97 in 640, and tau 0.5 reaches 0.80 in 640.
    "opt/tau": by_optimizer(sfw=Float(0.5, 15.0, log=True)),
    "opt/k_fraction": by_optimizer(sfw=Float(1e-3, 0.1, log=True)),
}

INITIAL_POINTS: dict[str, Any] = {
    "lam": by_regularizer(
        l1=1e-5,
        hoyer_square=1e-4,
        wcr=1e-5,
        l0_hard_concrete=3e-5,
        concave_mask=6e-5,
        weight_factorization=1e-2,
    ),
    "opt/rho": by_optimizer(sam=0.1, s2sam=0.1, friendly_sam=0.1, safe=0.1, cram=0.05),
    "opt/admm_lam": by_optimizer(safe=0.1),
    "opt/tau": by_optimizer(sfw=1.0),
    "opt/k_fraction": by_optimizer(sfw=3e-3),
}

# For 640 steps (digits, 40 epochs). For another number of steps, keep the product of gate_lr and the number of steps
# constant, so that the ranges of lam stay valid. SFW's value is 10 times SGD's, because SFW averages gradients and
# SGD's momentum of 0.9 multiplies them by 10. AdamW moves a gate by about gate_lr a step, whatever the size of the
# gradient.
GATE_LR = dict.fromkeys(GRADIENT_METHODS, 100.0) | {"sfw": 1000.0, "adamw": 0.1}

TUNED = {
    "opt/lr": by_optimizer(
        **dict.fromkeys(GRADIENT_METHODS, Float(0.02, 0.5, log=True)),
        adamw=Float(3e-4, 3e-2, log=True),
        sfw=Float(0.2, 2.0),
    ),
    "opt/weight_decay": by_optimizer(
        **dict.fromkeys(GRADIENT_METHODS, Float(5e-4, 5e-2, log=True)),
        adamw=Float(1e-3, 1.0, log=True),  # larger, because adamw's lr is smaller
    ),
}

OVERRIDES = {
    "opt/lr": by_optimizer(sfw=1.0, adamw=3e-3),
    "opt/weight_decay": by_optimizer(sfw=0.0, adamw=0.1),
    "opt/sparsity": by_optimizer(safe=0.96),  # the target sparsity of the sweeps on digits
    "reg/gate_lr": by_regularizer(
        l0_hard_concrete=by_optimizer(**GATE_LR),
        concave_mask=by_optimizer(**{name: lr / 10 for name, lr in GATE_LR.items()}),
    ),
}

SEARCH_SPACE = SearchSpace(ranges=RANGES, tuned=TUNED, initial_points=INITIAL_POINTS, overrides=OVERRIDES)
