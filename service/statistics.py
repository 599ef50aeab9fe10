"""Confidence intervals and paired tests over seeds.

The tests take the number of seeds as given. Under racing it depends on validation results (see `_race.py`), while the
differences tested are of the test split: the p-values are approximate there, and exact with `--no-race`. The interval
of a difference is for that comparison alone. After Holm's correction over several comparisons, a difference may not
be established although its interval excludes zero.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["MIN_SEEDS", "compare", "holm", "interval_of_mean"]

MIN_SEEDS = 6  # with five pairs or fewer, a two-sided sign-flip test has p >= 0.0625
LEVEL = 0.95


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """95% Student's t interval of the mean over seeds; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any] | None:
    """The paired difference of two configurations over the seeds that both have.

    Args:
        ours: Seed -> value.
        theirs: Seed -> value.

    Returns:
        None without a common seed; otherwise n, the number of pairs; difference, the mean of ours - theirs; p of
        `sign_flip_p` for a difference of zero; and interval, the differences that this test does not reject at the 5%
        level, None below MIN_SEEDS pairs, where the test rejects nothing.
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
    """Two-sided p of the sign-flip permutation test on the mean: exact up to 14 pairs, else from 20,000 random flips.

    Ties count as extreme, with a tolerance for rounding errors, so rounding never makes p too small.
    """
    sums = np.abs(signs(len(differences)) @ differences)
    return float(np.mean(sums >= abs(differences.sum()) - 1e-12 * (1 + np.abs(differences).sum())))


@functools.cache
def signs(n: int) -> np.ndarray:
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
    """Holm's step-down adjusted p-values: calling those below alpha findings bounds the family-wise error by alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian EventLog of Statistics, 1979.
    """
    adjusted, highest = [math.nan] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted
