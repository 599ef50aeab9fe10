"""When the table of methods calls one of them the best: synthetic results with known answers."""

import numpy as np
import pytest

from service.views.report.sections.methods import significantly_best


def draw(rng, means, num_seeds, noise):
    """Values of methods that share the luck of each seed."""
    luck = rng.normal(0, 0.02, num_seeds)
    return [dict(enumerate(mean + luck + rng.normal(0, noise, num_seeds))) for mean in means]


@pytest.mark.parametrize("num_methods", [2, 4])
def test_false_alarms_are_rarer_than_five_percent(num_methods):
    """Equal methods: whichever is ahead by chance must be called the best in at most 5% of the draws."""
    rng, num_draws = np.random.default_rng(0), 400
    alarms = sum(significantly_best(draw(rng, [0.9] * num_methods, 10, 0.01)) is not None for _ in range(num_draws))
    assert alarms / num_draws < 0.05 + 3 * (0.05 * 0.95 / num_draws) ** 0.5


def test_equal_best_methods_are_rarely_told_apart():
    """Two are equal and a third is far behind: the bold one would be wrong."""
    rng, num_draws = np.random.default_rng(1), 400
    alarms = sum(significantly_best(draw(rng, [0.9, 0.9, 0.5], 10, 0.01)) is not None for _ in range(num_draws))
    assert alarms / num_draws < 0.05 + 3 * (0.05 * 0.95 / num_draws) ** 0.5


def test_a_real_difference_is_found():
    rng, num_draws = np.random.default_rng(2), 100
    found = [significantly_best(draw(rng, [0.90, 0.93, 0.90, 0.91], 12, 0.005)) for _ in range(num_draws)]
    assert found.count(1) > 90
    assert set(found) <= {1, None}


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_with_fewer_than_six_seeds_nothing_is_significant(num_seeds):
    assert significantly_best([dict.fromkeys(range(num_seeds), 0.9), dict.fromkeys(range(num_seeds), 0.1)]) is None


def test_one_method_is_not_the_best_of_several():
    assert significantly_best([dict.fromkeys(range(10), 0.9)]) is None


def test_seeds_that_are_not_shared_do_not_count():
    ours, theirs = dict.fromkeys(range(10), 0.9), dict.fromkeys(range(5, 15), 0.1)
    assert significantly_best([ours, theirs]) is None  # five pairs
