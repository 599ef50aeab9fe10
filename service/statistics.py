"""Confidence intervals and paired tests over seeds.

The tests take the number of seeds as given. Racing (`service.search.race`) chooses it by validation results, while the
tested differences are of the test split, so the p-values are approximate; they are exact with `--no-race`. The interval
of a difference covers one comparison. After Holm's correction over several comparisons, a difference may not be
significant although its interval excludes zero.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

__all__ = ["MIN_SEEDS", "compare", "holm", "interval_of_mean", "mean_and_spread", "sign_flip_p"]

MIN_SEEDS = 6  # with five pairs or fewer, a two-sided sign-flip test has p >= 0.0625
LEVEL = 0.95


def mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """{"value": mean, "spread": sample standard deviation (None for one value), "n": number of values}."""
    return {"value": fmean(values), "spread": stdev(values) if len(values) > 1 else None, "n": len(values)}


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """95% Student's t interval of the mean over seeds; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy import stats  # takes a second to import: `status` and `best` do not need it

    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any] | None:
    """The paired difference of two configurations over the seeds that both have.

    Args:
        ours: Value by seed.
        theirs: Value by seed.

    Returns:
        None without a common seed, otherwise:

        - n: number of pairs
        - difference: mean of ours - theirs
        - p: `sign_flip_p` of the null hypothesis that the difference is zero
        - interval: the differences that this test does not reject at the 5% level; None for fewer than `MIN_SEEDS`
          pairs, where the test rejects nothing
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    return {
        "n": len(seeds),
        "difference": float(differences.mean()),
        "interval": exact_interval(differences),
        "p": sign_flip_p(differences),
    }


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p of the sign-flip permutation test on the mean.

    Exact up to 14 pairs, otherwise estimated from 20,000 random flips. Ties count as extreme, with a tolerance for
    rounding errors, so that rounding never makes p too small.
    """
    sums = np.abs(signs(len(differences)) @ differences)
    return float(np.mean(sums >= abs(differences.sum()) - 1e-12 * (1 + np.abs(differences).sum())))


@functools.cache
def signs(n: int) -> np.ndarray:
    """Sign patterns of n pairs, one per row; the first row has no flip."""
    if n <= 14:
        return 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    flips = np.random.default_rng(0).choice((-1.0, 1.0), (20_000, n))
    flips[0] = 1
    return flips


def exact_interval(differences: np.ndarray) -> tuple[float, float] | None:
    """The mean differences that `sign_flip_p` does not reject at 5%, by bisection."""
    if len(differences) < MIN_SEEDS:
        return None
    mean = float(differences.mean())
    width = float(np.abs(differences - mean).max())

    def end(direction: int) -> float:
        inside, outside = 0.0, 2 * width + 1e-9  # outside: all differences have one sign, so p is minimal
        for _ in range(40):
            middle = (inside + outside) / 2
            kept = sign_flip_p(differences - mean - direction * middle) > 1 - LEVEL
            inside, outside = (middle, outside) if kept else (inside, middle)
        return mean + direction * inside

    return end(-1), end(1)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values.

    Rejecting the hypotheses whose adjusted p is below alpha bounds the family-wise error rate by alpha.

    Reference: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6,
    1979.
    """
    adjusted, highest = [math.nan] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted
