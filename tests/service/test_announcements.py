import pytest

from service.announcements import MANY_ARMS, in_short
from service.search.space import make_arms
from tests.service._sweeps import load_sweep, make


def test_many_arms_are_named_by_what_they_combine():
    assert in_short(make_arms(load_sweep("cifar10_methods"))) == (
        "each of sgd, sam, s2sam, friendly_sam, cram, sfw, safe with each of none, l1, hoyer_square, wcr"
    )


@pytest.mark.parametrize("left_out", [0, 1])
def test_few_arms_or_some_of_all_combinations_are_named_one_by_one(left_out):
    arms = make_arms(make())[left_out:]
    assert in_short(arms).split(", ") == [arm.name for arm in arms]
    many = make_arms(load_sweep("digits_methods"))[left_out:]
    assert len(many) > MANY_ARMS
    assert ("each of" in in_short(many)) == (not left_out)
