import contextlib

import pytest

from service.announcements import MANY_ARMS, announce, in_short
from service.records.recorder import Recorder
from service.search.phases import Phases
from service.search.space import make_arms
from service.views.console import make_console
from tests.service._sweeps import load_sweep, make


def test_many_arms_are_named_by_what_they_combine():
    assert in_short(make_arms(load_sweep("cifar10_methods"))) == (
        "each of sgd, sam, s2sam, friendly_sam, cram, sfw, safe with each of none, l1, hoyer_square, wcr"
    )


@pytest.mark.parametrize(("num_finalists", "more"), [(1, ""), (2, ", the best 2 on 2 more seeds")])
def test_the_budget_of_an_arm_is_announced_with_its_finalists(tmp_path, capsys, num_finalists, more):
    sweep = make(runs=tmp_path, num_trials=3, num_search_seeds=2, num_finalists=num_finalists)
    with contextlib.closing(Recorder(sweep.folder)) as records:
        records.sweep_begun(sweep.identity(), data="none")
        records.search_started(initial_points={}, num_parallel=1)
        announce(sweep, Phases(sweep, make_arms(sweep), records), "sqlite:///mlflow.db", make_console())
    assert f"(3 configurations each on 2 seeds{more})" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("left_out", [0, 1])
def test_few_arms_or_some_of_all_combinations_are_named_one_by_one(left_out):
    arms = make_arms(make())[left_out:]
    assert in_short(arms).split(", ") == [arm.name for arm in arms]
    many = make_arms(load_sweep("digits_methods"))[left_out:]
    assert len(many) > MANY_ARMS
    assert ("each of" in in_short(many)) == (not left_out)
