"""The simulated searches, on times and values that can be told by hand."""

import optuna
import pytest

from benchmarks.searches import Task, optuna_by_hand, ours, simulate


def test_three_trials_of_one_unit_on_two_workers_leave_a_quarter_idle():
    told = []
    busy, best = simulate(
        lambda params: (1.0, params["x"]),
        iter([{"x": 0.2}, {"x": 0.7}, {"x": 0.5}]),
        lambda params, value: told.append(value),
        2,
    )
    assert (busy, best) == (0.75, 0.7)
    assert sorted(told) == [0.2, 0.5, 0.7]


def test_a_search_that_waits_goes_on_once_it_was_told():
    def search():
        yield {"x": 1.0}
        while not told:
            yield None
        yield {"x": 2.0}

    told = []
    busy, _ = simulate(lambda params: (params["x"], 0.0), search(), lambda params, value: told.append(value), 2)
    assert busy == pytest.approx(3.0 / (2 * 3.0))


@pytest.mark.parametrize("make", [lambda: ours(0, 9, 3, ahead=4), lambda: optuna_by_hand(0, 9)])
def test_each_contender_makes_all_its_trials(make):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    proposals, tell = make()
    values = []
    simulate(Task(0), proposals, lambda params, value: (values.append(value), tell(params, value)), 3)
    assert len(values) == 9
