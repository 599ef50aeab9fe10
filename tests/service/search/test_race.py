import random
import statistics

import pytest

from service.search.race import next_stage


def race(draw, num, *, baselines=(), num_seeds=5, on=True):
    """Run a race to its end; draw: (combination, seed) -> value. Returns each combination's values."""
    values = [[] for _ in range(num)]
    while stage := next_stage(values, baselines=baselines, num_seeds=num_seeds, race=on):
        for index, more in stage.items():
            values[index] += [draw(index, len(values[index]) + i) for i in range(more)]
    return values


def test_everyone_starts_with_two_seeds_and_equal_combinations_end_with_the_same_number():
    assert next_stage([[], [], []], baselines=(), num_seeds=5) == {0: 2, 1: 2, 2: 2}
    noise = random.Random(0)
    assert [len(row) for row in race(lambda i, s: noise.gauss(0.9, 0.05), 3)] == [5, 5, 5]


def test_the_seeds_of_a_clearly_beaten_combination_go_to_the_others():
    """By hand: 0.5 trails 0.9 by 0.4, far beyond 3 sqrt(2 * 0.0002 / 2); 3 x 5 seeds less its 2 leave 6 for each."""
    values = race(lambda i, s: (0.9, 0.9, 0.5)[i] + 0.02 * (-1) ** s, 3)
    assert [len(row) for row in values] == [6, 6, 2]
    assert sum(map(len, values)) <= 15


def test_the_best_baseline_is_never_dropped():
    values = race(lambda i, s: (0.9, 0.6, 0.5)[i] + 0.01 * (-1) ** s, 3, baselines=(1, 2))
    assert [len(row) for row in values] == [6, 6, 2]


def test_a_single_contender_gets_at_most_twice_the_seeds():
    values = race(lambda i, s: (0.9 if i == 0 else 0.1) + 0.01 * (-1) ** s, 10)
    assert [len(row) for row in values] == [10] + [2] * 9


def test_a_combination_that_failed_is_out():
    values = race(lambda i, s: float("nan") if i == 1 else 0.9 + 0.01 * (-1) ** s, 2)
    assert [len(row) for row in values] == [8, 2]


@pytest.mark.parametrize("num_seeds", [1, 2, 7])
def test_without_a_race_everyone_has_the_same_seeds(num_seeds):
    values = race(lambda i, s: (0.9, 0.1)[i], 2, num_seeds=num_seeds, on=False)
    assert [len(row) for row in values] == [num_seeds, num_seeds]


def test_one_seed_each_is_possible():
    assert [len(row) for row in race(lambda i, s: 0.5, 3, num_seeds=1)] == [1, 1, 1]


def test_a_race_drops_the_truly_best_combination_rarely():
    """Ten combinations, of which one is better than the others by one standard deviation of a seed."""
    lost = 0
    for repeat in range(300):
        noise = random.Random(repeat)
        values = race(lambda i, s, noise=noise: noise.gauss(0.1 * (i == 0), 0.1), 10)
        lost += len(values[0]) < max(map(len, values))
    assert lost <= 6  # of 300; a margin of 3 standard errors


def test_the_contenders_have_more_seeds_than_an_even_split_gives():
    noise = random.Random(1)
    values = race(lambda i, s: noise.gauss(0.95 if i < 3 else 0.3, 0.03), 9)
    assert statistics.fmean(len(row) for row in values[:3]) == 10
    assert {len(row) for row in values[3:]} == {2}
