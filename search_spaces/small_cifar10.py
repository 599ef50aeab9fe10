"""A small residual network on CIFAR-10, trained for about 600 steps and pruned to 90%: `small_cnn.py` with other lam.

The ranges of l1, Hoyer-square and WCR are three decades around the best lam of preliminary runs (docs/study.md). The
first configuration of an arm has the middle of its range.
"""

import dataclasses

from optuna.distributions import FloatDistribution as Float

from search_spaces import by_optimizer, by_regularizer, small_cnn

__all__ = ["SEARCH_SPACE"]

LAM = {
    "l1": Float(1e-5, 1e-2, log=True),
    "hoyer_square": Float(3e-6, 3e-3, log=True),
    "wcr": Float(1e-7, 1e-4, log=True),
}
FIRST_LAM = {"l1": 3e-4, "hoyer_square": 1e-4, "wcr": 3e-6}

SEARCH_SPACE = dataclasses.replace(
    small_cnn.SEARCH_SPACE,
    ranges={**small_cnn.RANGES, "lam": by_regularizer(**{**small_cnn.RANGES["lam"]["regularizer"], **LAM})},
    initial_points={
        **small_cnn.INITIAL_POINTS,
        "lam": by_regularizer(**{**small_cnn.INITIAL_POINTS["lam"]["regularizer"], **FIRST_LAM}),
    },
    overrides={**small_cnn.OVERRIDES, "opt/sparsity": by_optimizer(safe=0.9)},  # as it is pruned
)
