"""Search spaces as data: what to search, where to start, and what a method needs in place of a sweep's own values.

Each file covers one family of architectures and has one value, `SEARCH_SPACE`. An entry of it either holds for every
arm (an optimizer with a regularizer), or is conditional: `{parent: {choice: value}}`. For example, each optimizer of
the SAM family has its own range of rho:

    "opt/rho": {"optimizer": {"sam": Float(0.05, 1.0, log=True), "cram": Float(0.01, 0.2, log=True)}}

A value may be conditional itself. An optimizer or a regularizer that a search space does not mention is searched in the
ranges of its own class (`sparsity.ranges`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sparsity_sweeps  # noqa: F401 (its checks: a sweep's file imports this package first)

__distribution__ = "sparsity-sweeps"
__all__ = ["SearchSpace", "by_optimizer", "by_regularizer"]


@dataclass(frozen=True)
class SearchSpace:
    """Distributions and values by parameter name, such as `lam` or `opt/rho`.

    Args:
        ranges: Optuna distributions of the parameters that are always searched. Categorical ones make the arms.
        tuned: Distributions of the learning rate and the weight decay. `--tuning fair` searches them for every arm,
            baselines included; `--tuning paper` trains with the sweep's own values.
        initial_points: The first configuration of each arm. Parameters of `tuned` start at the sweep's own values.
        overrides: Values that replace the sweep's own for the methods that need others.
    """

    ranges: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    initial_points: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)


def by_optimizer(**values: Any) -> dict[str, dict[str, Any]]:
    """An entry whose value depends on the optimizer: by_optimizer(sam=0.5, cram=0.05)."""
    return {"optimizer": values}


def by_regularizer(**values: Any) -> dict[str, dict[str, Any]]:
    """An entry whose value depends on the regularizer: by_regularizer(wcr=1e-5)."""
    return {"regularizer": values}
