import math

import pytest
from scipy.integrate import trapezoid

from service.records.goal import Goal, area_under_curve
from tests.service._sweeps import make
from trainables.config import PruningMethod


def test_the_area_by_hand():
    """Densities 1, 0.1, 0.01: two steps of equal length on a logarithmic scale."""
    assert area_under_curve({0.0: 1.0, 0.9: 0.8, 0.99: 0.2}) == pytest.approx((0.9 + 0.5) / 2)
    assert area_under_curve({0.5: 0.6, 0.9: 0.6, 0.96: 0.6}) == pytest.approx(0.6)
    values = {0.98: 0.3, 0.0: 0.99, 0.96: 0.7, 0.9: 0.95}
    levels = sorted(values)
    x = [-math.log10(1 - level) for level in levels]
    assert area_under_curve(values) == pytest.approx(trapezoid([values[s] for s in levels], x) / x[-1])


def test_an_area_needs_two_sparsities():
    with pytest.raises(ValueError, match=r"objective: must have two sparsities or more for an area, got \[0\.9\]"):
        area_under_curve({0.9: 0.5})


def test_the_goal_of_a_sweep():
    sweep = make(criterion=("snip", "magnitude"), scope=("uniform", "2:4"), sparsities=(0.9,), max_dense_drop=0.01)
    goal = Goal.of(sweep.identity())
    assert (goal.target_sparsity, goal.levels, goal.max_dense_drop) == (0.96, (0.0, 0.9, 0.96), 0.01)
    assert goal.method == "snip uniform"
    ratio = Goal.of(make(scope=("2:4", "global"), target_sparsity=0.5).identity())
    assert (ratio.method, ratio.levels) == ("magnitude 2:4", (0.0, 0.5))


def test_the_value_of_a_trial(toy):
    trial = toy.state.trials[toy.trial((0.9, 0.6), others={"snip global": (0.7, None)})]
    goal = toy.state.goal
    assert (goal.value(trial), goal.dense(trial), goal.value(trial, "test")) == (0.6, 0.9, None)
    area = Goal(0.9, (0.0, 0.9), "snip global", area=True)
    assert area.value(trial) == pytest.approx(0.8)
    assert Goal(0.95, (0.0, 0.9, 0.95), "snip global", area=True).value(trial) is None


def test_labels_of_one_criterion_with_arguments():
    method = PruningMethod(criterion="compensation", crit={"num_probes": 4}, scope="uniform")
    assert method.label == "compensation num_probes=4 uniform"
