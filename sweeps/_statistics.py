"""Intervals and paired tests over seeds, and when they may be called a finding."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["MIN_SEEDS", "compare", "holm", "interval_of_mean"]

MIN_SEEDS = 6  # an exact paired test has p >= 0.0625 with five pairs or fewer
LEVEL = 0.95


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's t interval of the mean at 95%, over seeds; None for fewer than two values."""
    if len(values) < 2:
        return None
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[str, Any] | None:
    """The paired difference of two configurations over the seeds that both have: seed -> value.

    Returns:
        n, difference (mean of ours - theirs), interval (Student's t at 95%, None for n = 1) and p, that of the exact
        two-sided sign-flip permutation test of a mean difference of zero; None without a common seed.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    return {
        "n": len(seeds),
        "difference": float(differences.mean()),
        "interval": interval_of_mean(differences.tolist()),
        "p": sign_flip_p(differences),
    }


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided p of the sign-flip permutation test on the mean, exact up to 16 pairs, else 100,000 random flips.

    Ties count as extreme, with a tolerance for rounding, so that p is never too small.
    """
    n = len(differences)
    if n <= 16:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(0).choice((-1, 1), (100_000, n))
        signs[0] = 1
    sums = np.abs(signs @ differences)
    return float(np.mean(sums >= abs(differences.sum()) - 1e-12 * np.abs(differences).sum()))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values: below alpha they bound the chance of any false alarm among them by alpha.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    adjusted, highest = [math.nan] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted
