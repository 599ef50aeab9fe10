"""How a good lam carries over to another setting: the rules, and the one that is used.

`benchmarks.transfer` compares the rules; docs/transfer.md has the result.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["RULES", "SCALES", "Setting", "decades_of", "factor", "rule_of"]


@dataclass(frozen=True)
class Setting:
    """What a rule for lam may depend on; None if it is not known."""

    lr: float | None = None
    weight_decay: float | None = None
    num_weights: int | None = None


# Rule -> the values of a setting to which the best lam is in proportion. A good lam is carried over by their ratio.
SCALES: Mapping[str, Callable[[Setting], tuple[float | None, ...]]] = {
    "lam": lambda setting: (),
    "lam / weight_decay": lambda setting: (setting.weight_decay,),
    "lam / lr": lambda setting: (setting.lr,),
    "lam / (lr weight_decay)": lambda setting: (setting.lr, setting.weight_decay),
    "lam num_weights": lambda setting: (setting.num_weights and 1 / setting.num_weights,),
}

# The rule of each regularizer; the last entry is that of all others, which were not measured.
RULES = {"wcr": "lam", "hoyer_square": "lam", "": "lam"}
# How many decades a lam that is carried over by its rule is off, in the median over pairs of settings.
DECADES = {"wcr": 1.0, "hoyer_square": 0.8, "": 1.0}


def rule_of(regularizer: str) -> str:
    return RULES.get(regularizer, RULES[""])


def decades_of(regularizer: str) -> float:
    return DECADES.get(regularizer, DECADES[""])


def factor(rule: str, there: Setting, here: Setting) -> float:
    """What to multiply a good lam by. A value that is unknown in one of the settings, or 0, changes nothing."""
    pairs = zip(SCALES[rule](there), SCALES[rule](here), strict=True)
    return math.prod(new / old for old, new in pairs if old and new)
