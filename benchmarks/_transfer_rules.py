"""Rules that carry lam from one setting to another, and the accuracy that each of them costs."""

import csv
import functools
import gzip
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.transfer import DEPTH, LEVELS, Setting
from service.search import carrying
from service.search.carrying import SCALES
from trainables.architectures.small_resnet import small_resnet

__all__ = [
    "BY_LAM",
    "PREDICTIONS",
    "REFERENCES",
    "RULES",
    "Curve",
    "bootstrap_interval",
    "count_weights",
    "decades_off",
    "read_curves",
    "regrets",
]

ENOUGH = 0.9  # the target sparsity keeps this share of the dense accuracy with the best lam
NUM_CANDIDATES = 401  # values of lam among which a rule chooses
NUM_RESAMPLES = 4_000
UNIT = carrying.Setting(1.0, 1.0, 1)


@dataclass(frozen=True)
class Curve:
    """The results of one setting with one regularizer, ordered by lam.

    Args:
        target: The setting's target sparsity.
        lams: Values of lam, ascending.
        validation: Mean accuracy over seeds at the target sparsity, for each lam.
        test: The same on the test split.
        share_start: Geometric mean over seeds of the penalty share at the start, for each lam.
        share_end: The same at the end.
        num_weights: Number of weights of the network.
        num_seeds: Number of seeds of the lam that has fewest.
    """

    setting: Setting
    target: float
    lams: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    share_start: np.ndarray
    share_end: np.ndarray
    num_weights: int
    num_seeds: int = 1


# ---- the rules -----------------------------------------------------------------------------------------------------

BY_LAM = "lam"


def scaled(rule: str, curve: Curve) -> np.ndarray:
    """lam over what the best lam is in proportion to."""
    setting = carrying.Setting(curve.setting.lr, curve.setting.weight_decay, curve.num_weights)
    return np.log10(curve.lams / carrying.factor(rule, UNIT, setting))


# Each rule says which quantity has the same best value in all settings: its decimal logarithm for each lam of a curve.
RULES: Mapping[str, Callable[[Curve], np.ndarray]] = {
    **{rule: functools.partial(scaled, rule) for rule in SCALES},
    "penalty share at the start": lambda curve: np.log10(curve.share_start),
    "penalty share at the end": lambda curve: np.log10(curve.share_end),
}


def coordinates(rule: str, curve: Curve) -> np.ndarray:
    """The rule's quantity for each lam, made strictly increasing: a measured share need not be."""
    values = np.maximum.accumulate(RULES[rule](curve))
    return values + 1e-9 * np.arange(len(values))


def pooled(rule: str, curve: Curve, others: Sequence[Curve]) -> np.ndarray:
    """log10 of the lam at which the rule's quantity serves the other settings best: the least mean loss of accuracy."""
    candidates = np.linspace(*np.log10(curve.lams[[0, -1]]), NUM_CANDIDATES)
    quantity = np.interp(candidates, np.log10(curve.lams), coordinates(rule, curve))
    losses = [
        other.validation.max() - np.interp(quantity, coordinates(rule, other), other.validation) for other in others
    ]
    mean = np.mean(losses, axis=0)
    return candidates[mean <= mean.min() + 1e-6].mean(keepdims=True)


def one_source(rule: str, curve: Curve, others: Sequence[Curve]) -> np.ndarray:
    """log10 of the lam at which the rule's quantity is that of another setting's best lam, for each other setting."""
    best = [coordinates(rule, other)[int(other.validation.argmax())] for other in others]
    return np.interp(best, coordinates(rule, curve), np.log10(curve.lams))


def own_best(_: str, curve: Curve, others: Sequence[Curve]) -> np.ndarray:
    return np.log10(curve.lams[[int(curve.validation.argmax())]])


def middle(_: str, curve: Curve, others: Sequence[Curve]) -> np.ndarray:
    return np.log10(curve.lams[[0, -1]]).mean(keepdims=True)


# What the rules compare with: a search in the setting itself, which costs all of its trainings, and no knowledge.
REFERENCES = {"(own search)": own_best, "(middle of the range)": middle}
PREDICTIONS = {"all others": pooled, "one other": one_source}


def regrets(curves: Sequence[Curve], rule: str, prediction: str = "all others") -> dict[int, float]:
    """Setting's index -> test accuracy of its best lam, less that of the predicted one by interpolation on log lam.

    Args:
        rule: A name in RULES or REFERENCES.
        prediction: "all others": from the results of all other settings together; "one other": from the best lam of one
            other setting, averaged over all of them.
    """
    predict = REFERENCES.get(rule) or PREDICTIONS[prediction]
    found = {}
    for index, curve in enumerate(curves):
        others = [other for other in curves if other is not curve]
        reached = np.interp(predict(rule, curve, others), np.log10(curve.lams), curve.test)
        found[index] = float(curve.test.max() - reached.mean())
    return found


def decades_off(curves: Sequence[Curve], rule: str) -> np.ndarray:
    """For each pair of settings, how many decades the lam carried over from one is from the best lam of the other."""
    found = []
    for curve in curves:
        others = [other for other in curves if other is not curve]
        found.append(np.abs(one_source(rule, curve, others) - own_best(rule, curve, others)))
    return np.concatenate(found)


def bootstrap_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over settings."""
    array = np.asarray(values)
    draws = np.random.default_rng(0).integers(len(array), size=(NUM_RESAMPLES, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# ---- the table -----------------------------------------------------------------------------------------------------


def read_curves(table: Path) -> dict[str, list[Curve]]:
    """Regularizer -> the curves of its settings, from the table of `benchmarks.transfer`.

    A diverged training counts as accuracy 0. A setting needs two values of lam.
    """
    rows: dict[tuple[str, Setting], dict[float, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    with gzip.open(table, "rt", newline="") as file:
        for row in csv.DictReader(file):
            setting = Setting(int(row["width"]), float(row["weight_decay"]), float(row["lr"]))
            rows[row["regularizer"], setting][float(row["lam"])].append(row)
    found: dict[str, list[Curve]] = {}
    for (regularizer, setting), by_lam in sorted(rows.items()):
        if len(by_lam) > 1:
            found.setdefault(regularizer, []).append(make_curve(setting, by_lam))
    return found


def make_curve(setting: Setting, by_lam: Mapping[float, Sequence[Mapping[str, str]]]) -> Curve:
    lams = sorted(by_lam)

    def means(column: str) -> np.ndarray:
        return np.array([np.mean([float(row[column] or 0) for row in by_lam[lam]]) for lam in lams])

    def shares(column: str) -> np.ndarray:
        """Trainings that diverged have none; lam is in proportion to the share of its neighbour then."""
        known = {
            lam: np.mean([math.log10(float(row[column])) for row in by_lam[lam] if float(row[column] or 0) > 0])
            for lam in lams
            if any(float(row[column] or 0) > 0 for row in by_lam[lam])
        }
        nearby = [min(known, key=lambda other, lam=lam: abs(math.log(other / lam))) for lam in lams]
        return np.array([10 ** known[near] * lam / near for lam, near in zip(lams, nearby, strict=True)])

    by_level = {level: means(f"validation {level:g}") for level in LEVELS}
    target = target_of(means("validation 0"), by_level)
    return Curve(
        setting,
        target,
        np.array(lams),
        by_level[target],
        means(f"test {target:g}"),
        shares("penalty_share_start"),
        shares("penalty_share_end"),
        count_weights(setting.width),
        min(len(rows) for rows in by_lam.values()),
    )


def target_of(dense: np.ndarray, by_level: Mapping[float, np.ndarray]) -> float:
    """The highest sparsity at which the best lam keeps `ENOUGH` of the best dense accuracy, else the lowest one."""
    enough = [level for level, values in by_level.items() if values.max() >= ENOUGH * dense.max()]
    return max(enough, default=min(by_level))


@functools.cache
def count_weights(width: int, min_ndim: int = 2) -> int:
    """Weights of a setting's network, without biases; from `min_ndim` 4 on those of its convolutions alone."""
    model = small_resnet(10, 1, width=width, depth=DEPTH)
    return sum(p.numel() for p in model.parameters() if p.ndim >= min_ndim)
