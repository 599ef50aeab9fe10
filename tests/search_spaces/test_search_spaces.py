"""What a sweep makes of the entries for gates and for SFW."""

import importlib

import pytest

import sparsity
from service.search.space import make_arms, make_config
from sweeps.digits import SWEEP as DIGITS
from tests.service._sweeps import make

SPACES = ["cnn", "small_cnn"]


def arm_of(space, **choices):
    fields = {name: (choice,) for name, choice in choices.items()}
    search = space.SEARCH_SPACE
    (arm,) = make_arms(make(ranges=search.ranges, initial_points=search.initial_points, **fields))
    return arm


@pytest.mark.parametrize("name", SPACES)
def test_tau_and_k_fraction_are_searched_for_sfw_alone(name):
    space = importlib.import_module(f"search_spaces.{name}")
    sfw, sgd = (arm_of(space, optimizer=optimizer, regularizer="none") for optimizer in ("sfw", "sgd"))
    assert {"opt/tau", "opt/k_fraction"} <= set(sfw.space)
    assert not {"opt/tau", "opt/k_fraction"} & set(sgd.space)
    for argument in ("opt/tau", "opt/k_fraction"):
        assert sfw.space[argument].low <= sfw.initial_point[argument] <= sfw.space[argument].high
    assert sfw.initial_point["opt/tau"] == {"cnn": 15.0, "small_cnn": 1.0}[name]


@pytest.mark.parametrize("optimizer", sparsity.names("optimizers"))
@pytest.mark.parametrize("regularizer", ["concave_mask", "l0_hard_concrete"])
def test_a_digits_trial_with_gates_has_a_gate_lr_for_its_optimizer(optimizer, regularizer):
    config = make_config(DIGITS, {"optimizer": optimizer, "regularizer": regularizer}, {"lam": 1e-5})
    by_optimizer = {"sfw": 1000.0, "adamw": 0.1}.get(optimizer, 100.0)
    share = {"l0_hard_concrete": 1, "concave_mask": 10}[regularizer]
    assert config.reg == {"gate_lr": by_optimizer / share}
    assert make_config(DIGITS, {"optimizer": optimizer, "regularizer": "wcr"}, {"lam": 1e-5}).reg == {}
