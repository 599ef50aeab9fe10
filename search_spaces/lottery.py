"""Lottery tickets: iterative magnitude pruning against relaxed masks with a concave (log) and a convex (l1) penalty.

Source of the methods: Fracastoro et al. 2025 (arXiv 2501.11135). Ranges and values are ours, for small networks and
rounds of a few hundred steps: how far a mask closes depends on lam times lr times the number of steps.
"""

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from search_spaces import SearchSpace, by_optimizer
from search_spaces.small_cnn import SEARCH_SPACE as SMALL_CNN

__all__ = ["SEARCH_SPACE"]

RANGES = {
    "pruning_schedule": Categorical(("imp", "concave_mask")),
    "pruning_sched/select": {"pruning_schedule": {"concave_mask": Categorical(("rank", "threshold"))}},
    "reg/r": {"pruning_schedule": {"concave_mask": Categorical(("log", "l1"))}},
    "lam": {"reg/r": {"log": Float(5e-4, 3e-2, log=True), "l1": Float(3e-4, 1.5e-2, log=True)}},
    "pruning_sched/alpha": {"pruning_sched/select": {"threshold": Float(0.01, 0.5, log=True)}},
    "pruning_sched/rounds": {"pruning_sched/select": {"threshold": Int(1, 4)}},
    "opt/rho": by_optimizer(sam=Float(0.02, 0.5, log=True), s2sam=Float(0.02, 0.5, log=True)),
}

INITIAL_POINTS = {
    "lam": {"reg/r": {"log": 3e-3, "l1": 3e-3}},
    "pruning_sched/alpha": {"pruning_sched/select": {"threshold": 0.1}},
    "pruning_sched/rounds": {"pruning_sched/select": {"threshold": 3}},
    "opt/rho": by_optimizer(sam=0.1, s2sam=0.1),
}

OVERRIDES = {"regularizer": {"pruning_schedule": {"concave_mask": "concave_mask"}}}

SEARCH_SPACE = SearchSpace(ranges=RANGES, tuned=SMALL_CNN.tuned, initial_points=INITIAL_POINTS, overrides=OVERRIDES)
