import math
from dataclasses import replace

import pytest
from scipy.integrate import trapezoid

from service.records.goal import Goal, area_under_curve, excess
from tests.service._sweeps import make
from trainables.pruning_method import PruningMethod


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
    limits = {"max_dense_drop": 0.01, "max_macs_left": 0.4}
    sweep = make(criterion=("snip", "magnitude"), scope=("uniform", "2:4"), sparsities=(0.9,), **limits)
    goal = Goal.of(sweep.identity())
    assert (goal.target_sparsity, goal.levels, goal.max_dense_drop) == (0.96, (0.0, 0.9, 0.96), 0.01)
    assert goal.method == "snip uniform"
    assert {limit.name: limit.highest for limit in goal.limits} == limits
    assert Goal.of(make().identity()).limits == []
    ratio = Goal.of(make(scope=("2:4", "global"), target_sparsity=0.5).identity())
    assert (ratio.method, ratio.levels) == ("magnitude 2:4", (0.0, 0.5))


def test_the_value_of_a_trial(toy):
    trial = toy.state.trials[toy.trial((0.9, 0.6), others={"snip global": (0.7, None)})]
    goal = toy.state.goal
    assert (goal.value(trial), goal.dense(trial), goal.value(trial, "test")) == (0.6, 0.9, None)
    area = Goal(0.9, (0.0, 0.9), "snip global", area=True)
    assert area.value(trial) == pytest.approx(0.8)
    assert Goal(0.95, (0.0, 0.9, 0.95), "snip global", area=True).value(trial) is None


def test_violations_by_hand(toy):
    """Two configurations of two seeds each: dense means 0.9 and 0.8, MACs left 0.5 and 0.3."""

    def trial(dense, left, **config):
        return toy.state.trials[toy.trial((dense, 0.5), more={"macs_left": left}, **config)]

    wide = [trial(0.92, 0.6, seed=0), trial(0.88, 0.4, seed=1)]
    small = [trial(0.81, 0.3, seed=0, lam=1e-4), trial(0.79, 0.3, seed=1, lam=1e-4)]
    goal = replace(toy.state.goal, max_dense_drop=0.1, max_macs_left=0.4)
    found = goal.violations([wide, small])
    assert found[0] == {"max_dense_drop": pytest.approx(-0.1), "max_macs_left": pytest.approx(0.1)}
    assert found[1] == {"max_dense_drop": 0, "max_macs_left": pytest.approx(-0.1)}  # at a limit is within it
    assert [excess(of) for of in found] == [pytest.approx(0.1), 0]
    assert goal.violations([small], among=[wide, small])[0]["max_dense_drop"] == 0
    assert goal.violations([small])[0]["max_dense_drop"] == pytest.approx(-0.1)  # compared with itself
    assert toy.state.goal.violations([wide]) == [{}]


def test_a_size_that_was_not_recorded_counts_as_the_dense_networks(toy):
    trial = toy.state.trials[toy.trial((0.9, 0.5))]
    goal = replace(toy.state.goal, max_macs_left=0.4)
    assert goal.violations([[trial]]) == [{"max_macs_left": pytest.approx(0.6)}]


def test_labels_of_one_criterion_with_arguments():
    method = PruningMethod(criterion="compensation", crit={"num_probes": 4}, scope="uniform")
    assert method.label == "compensation num_probes=4 uniform"
