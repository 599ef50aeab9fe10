import pytest
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces import by_optimizer, by_regularizer
from service.search.space import Arm, make_arms, make_config, resolve
from tests.service._sweeps import TUNED, load_sweep, make

RANGES = {
    "optimizer": Categorical(("sgd", "sam")),
    "regularizer": Categorical(("none", "wcr")),
    "lam": by_regularizer(wcr=Float(1e-6, 1e-3, log=True)),
    "opt/rho": by_optimizer(sam=Float(0.05, 1.0, log=True), s2sam=Float(0.1, 0.2)),
}
INITIAL_POINTS = {"lam": by_regularizer(wcr=1e-5), "opt/rho": by_optimizer(sam=0.5)}


def test_arms_have_only_the_parameters_of_their_choices():
    arms = {arm.name: arm for arm in make_arms(make(ranges=RANGES, initial_points=INITIAL_POINTS))}
    assert list(arms) == ["sgd + none", "sgd + wcr", "sam + none", "sam + wcr"]
    assert {name: sorted(arm.space) for name, arm in arms.items()} == {
        "sgd + none": [],
        "sgd + wcr": ["lam"],
        "sam + none": ["opt/rho"],
        "sam + wcr": ["lam", "opt/rho"],
    }
    assert arms["sam + wcr"].initial_point == {"lam": 1e-5, "opt/rho": 0.5}


def test_a_choice_that_exists_beside_another_makes_arms_there_alone():
    space = {
        "pruning_schedule": Categorical(("imp", "concave_mask")),
        "reg/r": {"pruning_schedule": {"concave_mask": Categorical(("log", "l1"))}},
        "lam": {"reg/r": {"log": Float(1e-4, 1e-2), "l1": Float(1e-3, 1e-1)}},
    }
    initial_points = {"lam": {"reg/r": {"l1": 0.01}}}
    overrides = {"regularizer": {"pruning_schedule": {"concave_mask": "concave_mask"}}}
    sweep = make(ranges=space, initial_points=initial_points, overrides=overrides, optimizer=("sgd",))
    arms = {arm.name: arm for arm in make_arms(sweep)}
    assert list(arms) == ["imp + sgd", "concave_mask + log + sgd", "concave_mask + l1 + sgd"]
    assert arms["imp + sgd"].space == {}
    assert arms["concave_mask + l1 + sgd"].choices == {
        "pruning_schedule": "concave_mask",
        "reg/r": "l1",
        "optimizer": "sgd",
    }
    assert arms["concave_mask + l1 + sgd"].space["lam"].high == 0.1
    assert [arm.initial_point for arm in arms.values()] == [{}, {}, {"lam": 0.01}]


def test_each_optimizer_has_its_own_range():
    (arm,) = make_arms(make(ranges=RANGES, optimizer=("s2sam",), regularizer=("none",)))
    assert arm == Arm({"optimizer": "s2sam", "regularizer": "none"}, {"opt/rho": Float(0.1, 0.2)}, {})


def test_a_conditional_value_may_be_conditional_itself():
    entry = {"regularizer": {"l1": {"optimizer": {"sgd": 1.0, "sam": 2.0}}, "wcr": 3.0}}
    for regularizer, optimizer, expected in (
        ("l1", "sgd", 1.0),
        ("l1", "sam", 2.0),
        ("l1", "sfw", None),
        ("wcr", "sam", 3.0),
        ("none", "sgd", None),
    ):
        assert resolve(entry, {"regularizer": regularizer, "optimizer": optimizer}) == expected


def test_a_held_value_is_not_searched_and_reaches_the_method():
    sweep = make(lam=1e-4, rho=0.2, optimizer=("sgd", "sam"), regularizer=("none", "wcr"))
    configs = {}
    for arm in make_arms(sweep):
        assert not arm.space
        configs[arm.name] = make_config(sweep, arm.choices, {})
    assert configs["sam + wcr"].lam == 1e-4
    assert configs["sam + wcr"].opt == {"lr": 0.1, "rho": 0.2}
    assert configs["sgd + none"].lam == 0
    assert configs["sgd + none"].opt == {"lr": 0.1}


def test_the_fair_protocol_tunes_every_arm_and_starts_at_the_sweeps_own_values():
    sweep = make(
        optimizer=("sgd", "sam"), regularizer=("none", "wcr"), tuned=TUNED, opt={"lr": 0.2, "weight_decay": 0.01}
    )
    spaces = {arm.name: set(arm.space) for arm in make_arms(sweep)}
    assert spaces == {
        "sgd + none": {"opt/lr", "opt/weight_decay"},
        "sgd + wcr": {"lam", "opt/lr", "opt/weight_decay"},
        "sam + none": {"opt/rho", "opt/lr", "opt/weight_decay"},
        "sam + wcr": {"lam", "opt/rho", "opt/lr", "opt/weight_decay"},
    }
    assert all(
        arm.initial_point["opt/lr"] == 0.2 and arm.initial_point["opt/weight_decay"] == 0.01 for arm in make_arms(sweep)
    )


def test_the_papers_protocol_searches_the_methods_own_parameters_alone():
    sweep = make(optimizer=("sgd", "sam"), regularizer=("none", "wcr"), tuned=TUNED, tuning="paper")
    spaces = {arm.name: set(arm.space) for arm in make_arms(sweep)}
    assert spaces == {
        "sgd + none": set(),
        "sgd + wcr": {"lam"},
        "sam + none": {"opt/rho"},
        "sam + wcr": {"lam", "opt/rho"},
    }


def test_a_method_given_twice_is_one_arm():
    sweep = load_sweep("digits").changed(regularizer=("wcr", "wcr"), optimizer=("sam",))
    assert [arm.name for arm in make_arms(sweep)] == ["sam + wcr"]


def test_a_method_gets_what_it_needs_in_the_place_of_the_sweeps_own_value():
    ranges = {"optimizer": Categorical(("sgd", "sam"))}
    sweep = make(ranges=ranges, opt={"lr": 0.1, "weight_decay": 0.01}, overrides={"opt/lr": by_optimizer(sam=1.0)})
    assert make_config(sweep, {"optimizer": "sam"}, {}).opt == {"lr": 1.0, "weight_decay": 0.01}
    assert make_config(sweep, {"optimizer": "sgd"}, {}).opt == {"lr": 0.1, "weight_decay": 0.01}


def test_an_argument_of_the_regularizers_that_is_given_overrides_the_spaces_own():
    lora = load_sweep("commonsense_lora")
    wcr = {"optimizer": "adamw", "regularizer": "wcr"}
    assert make_config(lora, wcr, {"lam": 1e-6}).reg == {"eps": 1e-4}
    assert make_config(lora, {**wcr, "regularizer": "l1"}, {"lam": 1e-6}).reg == {}
    given = lora.changed(reg={"eps": 1e-8})
    assert make_config(given, wcr, {"lam": 1e-6}).reg == {"eps": 1e-8}


def test_a_held_parameter_is_one_that_the_sweep_has():
    held = {"hold": ("opt/lr", "opt/rho", "opt/momentum", "model/depth"), "opt": {"lr": 0.1, "momentum": 0.9}}
    arms = make_arms(make(tuned=TUNED, optimizer=("sgd",), model={"depth": 1}, **held))  # without an arm that has rho
    assert all("opt/lr" not in arm.space for arm in arms)
    for name in ("opt/foo", "model/depht", "crit/foo"):
        with pytest.raises(
            ValueError, match=rf"hold: must be a parameter of the search \(among opt/rho, opt/lr, .*got {name}"
        ):
            make_arms(make(tuned=TUNED, model={"depth": 1}, hold=(name,)))
