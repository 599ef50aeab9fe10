import math

import numpy as np
import pytest
from scipy import stats

from service.statistics import compare, exact_interval, holm, interval_of_mean, mean_and_spread, sign_flip_p


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5], {"value": 0.5, "spread": None, "n": 1}),
        ([1.0, 2.0, 3.0, 4.0], {"value": 2.5, "spread": pytest.approx((5 / 3) ** 0.5), "n": 4}),  # sum of squares 5
    ],
)
def test_spread_is_the_sample_standard_deviation(values, expected):
    assert mean_and_spread(values) == expected


def test_interval_of_the_mean_by_hand():
    """n = 4, mean 2.5, s = sqrt(5/3); t(0.975, 3) = 3.18245."""
    half = 3.18245 * math.sqrt(5 / 3) / 2
    assert interval_of_mean([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-4)
    assert interval_of_mean([1.0]) is None


def test_interval_covers_the_mean_at_its_nominal_rate():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        low, high = interval_of_mean(rng.normal(0.3, 0.1, 5).tolist())
        covered += low <= 0.3 <= high
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)  # three standard errors


@pytest.mark.parametrize("n", [2, 5, 6, 10])
def test_the_smallest_p_is_two_of_all_sign_patterns(n):
    assert sign_flip_p(np.linspace(0.1, 0.2, n)) == 2 / 2**n


@pytest.mark.parametrize("seed", range(5))
def test_sign_flip_equals_scipys_permutation_test(seed):
    differences = np.random.default_rng(seed).normal(0.02, 0.05, 9)
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(differences) == pytest.approx(expected.pvalue)


def test_many_pairs_are_sampled_and_close_to_the_t_test():
    differences = np.random.default_rng(3).normal(0.05, 0.1, 30)
    assert sign_flip_p(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.005)


def test_the_interval_of_a_difference_inverts_the_test():
    """By brute force: the test on a fine grid of hypothetical differences."""
    differences = np.random.default_rng(5).normal(0.03, 0.04, 8)
    low, high = exact_interval(differences)
    grid = np.linspace(-0.1, 0.2, 1501)
    kept = [d for d in grid if sign_flip_p(differences - d) > 0.05]
    assert (low, high) == (pytest.approx(min(kept), abs=3e-4), pytest.approx(max(kept), abs=3e-4))
    assert exact_interval(differences[:5]) is None


def test_interval_of_a_difference_covers_it_at_its_nominal_rate():
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        low, high = exact_interval(rng.laplace(0.02, 0.05, 8))
        covered += low <= 0.02 <= high
    assert covered / 400 == pytest.approx(0.95, abs=0.033)  # three standard errors


def test_equal_differences_have_an_interval_of_no_width():
    assert exact_interval(np.full(6, 0.1)) == pytest.approx((0.1, 0.1), abs=1e-6)


def test_false_positive_rate_with_ties_is_at_most_nominal():
    rng = np.random.default_rng(1)
    alarms = sum(sign_flip_p(rng.integers(-3, 4, 8) / 360) < 0.05 for _ in range(1000))
    assert alarms / 1000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


def test_no_difference_has_p_one():
    assert sign_flip_p(np.zeros(6)) == 1


def test_a_comparison_uses_the_seeds_that_both_have():
    found = compare({1: 0.9, 2: 0.8, 3: 0.7}, {2: 0.6, 3: 0.6, 4: 0.1})
    assert (found["n"], found["difference"]) == (2, pytest.approx(0.15))
    assert found["p"] == 0.5  # ++ and -- of four sign patterns
    assert compare({1: 0.9}, {2: 0.9}) is None
    assert compare({1: 0.9}, {1: 0.8})["interval"] is None
    pairs = {seed: 0.5 + seed / 100 for seed in range(6)}
    assert compare(pairs, dict.fromkeys(pairs, 0.5))["interval"] is not None


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, made monotone."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
