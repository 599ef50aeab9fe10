import json
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import json_to_distribution

from service import Sweep
from service.search.space import make_arms, make_config
from service.spec import SweepSpec
from tests.service._sweeps import SWEEPS, TUNED, load_sweep, make
from trainables.config import TrialConfig


def test_identity_is_what_decides_the_trials():
    base = make().identity()
    for budget in ({"num_trials": 3}, {"runs": Path("elsewhere")}, {"num_seeds": 7}, {"max_concurrent": 1}):
        assert make(**budget).identity() == base
    changes = ({"max_epochs": 2}, {"opt": {"lr": 0.2}}, {"lam": 1e-4}, {"seed": 1}, {"ranges": {}})
    for what in (*changes, {"num_search_seeds": 2}, {"tuned": TUNED}, {"tuned": TUNED, "tuning": "paper"}):
        assert make(**what).identity() != base


def test_a_changed_sweep_has_other_values_of_its_own_or_of_its_trials():
    base = make(num_trials=3)
    changed = base.changed(num_trials=4, max_epochs=7, lam=1e-4)
    assert (changed.num_trials, changed.trial.max_epochs, changed.lam) == (4, 7, 1e-4)
    assert changed.changed(num_trials=3, max_epochs=1, lam=None) == base
    other = changed.trial.model_copy(update={"batch_size": 5})
    assert base.changed(trial=other, seed=3).trial == other.model_copy(update={"seed": 3})
    for wrong in ({"num_trials": 0}, {"max_epochs": 0}, {"epochs": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            base.changed(**wrong)
    with pytest.raises(ValueError, match=r"^changed: must be a field .* such as num_trials, .*got 'num_trails'$"):
        base.changed(num_trails=4, lam=1e-4)


def test_a_limit_that_earlier_versions_lack_is_left_out_of_the_identity():
    assert "max_macs_left" not in make().identity()
    assert make(max_macs_left=0.4).identity() == make().identity() | {"max_macs_left": 0.4}
    assert make(sizes=False).identity() == make().identity()
    with pytest.raises(ValueError, match="sizes: must be on with max_macs_left"):
        make(max_macs_left=0.4, sizes=False)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="max_macs_left"):
            make(max_macs_left=wrong)


def test_a_sweep_that_names_no_sampler_was_searched_by_tpe():
    """As those that were recorded before there was a choice."""
    assert make().identity()["sampler"] == "gp"
    earlier = make(sampler="tpe").identity()
    assert "sampler" not in earlier
    assert SweepSpec.from_identity(earlier, name="again").sampler == "tpe"
    assert SweepSpec.from_identity(make().identity(), name="again").sampler == "gp"


def test_identity_is_json_and_names_each_range_in_optunas_form():
    identity = make().identity()
    rho = identity["search"]["ranges"]["opt/rho"]["optimizer"]["sam"]
    assert json_to_distribution(json.dumps(rho)) == Float(0.02, 0.5)
    assert json.loads(json.dumps(identity)) == identity


def test_the_name_is_the_datasets_unless_it_is_given():
    assert make().name == "digits"
    assert make(name="mine").name == "mine"


@pytest.mark.parametrize(
    ("field", "message"),
    [({"lam": 1e-3, "regularizer": "wcr"}, "trial: lam must be left out"), ({"read_test": True}, "trial: read_test")],
)
def test_what_the_search_decides_is_refused_in_the_template(field, message):
    sweep = make()
    trial = TrialConfig.model_validate({**dict(sweep.trial), **field})
    with pytest.raises(ValueError, match=message):
        Sweep(trial=trial, search=sweep.search)


def test_objects_stand_for_their_names():
    from sparsity.criteria.magnitude import magnitude
    from sparsity.optimizers.sam import SAM
    from sparsity.regularizers.wcr import WCR
    from trainables.architectures.small_resnet import small_resnet
    from trainables.datasets.digits import digits

    more = {"max_epochs": 1, "target_sparsity": 0.96}
    trial = TrialConfig(dataset=digits, architecture=small_resnet, optimizer=SAM, **more)
    named = TrialConfig(dataset="digits", architecture="small_resnet", optimizer="sam", **more)
    assert trial == named
    assert trial.key == named.key
    search = make().search
    of_objects = Sweep(trial=trial, search=search, optimizer=SAM, regularizer=("none", WCR), criterion=magnitude)
    of_names = Sweep(trial=named, search=search, optimizer=("sam",), regularizer=("none", "wcr"), criterion="magnitude")
    assert of_objects == of_names
    assert of_objects.identity() == of_names.identity()


def test_an_object_that_workers_cannot_import_is_refused():
    def build(**_): ...

    with pytest.raises(ValueError, match="architecture: must be at the top level of a file, not inside a function"):
        TrialConfig(dataset="digits", architecture=build, max_epochs=1, target_sparsity=0.96)
    with pytest.raises(ValueError, match="regularizer: must be a name, an import string, a class or a function, got 3"):
        make(regularizer=(3,))


# ---- pruning methods, bounds, identity ---------------------------------------------------------------------------


def test_every_criterion_prunes_with_every_scope():
    sweep = make(criterion=("magnitude", "compensation"), scope=("global", "2:4"), crit={"num_probes": 4})
    labels = [method.label for method in sweep.pruning]
    assert labels == [
        "magnitude global",
        "magnitude 2:4",
        "compensation num_probes=4 global",
        "compensation num_probes=4 2:4",
    ]
    assert [method.label for method in make().pruning] == ["magnitude global"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"criterion": ("magnitude", "snip"), "crit": {"num_probes": 4}},
            r"crit: arguments must be among .*'num_p",
        ),
        ({"criterion": ("magnitude",), "crit": {"a": 1}}, r"criterion \(magnitude: \(none\)\), got 'a'"),
        ({"criterion": ("magnitude", "wanda2")}, "criterion: must be one of .*, got 'wanda2'"),
        ({"scope": ("global", "4:2")}, r"scope: must be one of global, uniform, row, n:m .*, got '4:2'"),
        ({"scope": ("2:4", "global")}, r"sparsity: must be 0.5 with scope 2:4 \(it has no other\), got 0.96"),
        (
            {"scope": ("global", "uniform"), "pruning_schedule": "imp"},
            "criterion: must be a single one with a single scope",
        ),
        ({"objective": "area"}, r"objective: must have two sparsities or more above 0 for an area .*, got 0.96"),
        ({"bounds": ["lam=1e-3:1e-6"]}, r"range: must be NAME=LOW:HIGH with 0 <= LOW < HIGH, got 'lam=1e-3:1e-6'"),
        ({"bounds": ["lam"]}, "range: must be NAME=LOW:HIGH"),
        ({"name": ".."}, r"name: must be none of \., \.\., mlartifacts \(other things are there\), got '\.\.'"),
        ({"name": "mlartifacts"}, "name: must be none of .*, got 'mlartifacts'"),
        ({"study_uri": "study.db"}, r"study_uri: must be a URL such as .*, got 'study.db'"),
    ],
)
def test_pruning_and_bounds_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_a_second_scope_of_n_to_m_has_its_own_sparsity():
    sweep = make(scope=("global", "2:4"), sparsities=(0.9,))
    config = make_config(sweep, {"optimizer": "sgd", "regularizer": "none"}, {})
    assert [config.pruned_by(method).levels for method in config.pruning] == [(0, 0.9, 0.96), (0, 0.5)]


def test_bounds_replace_those_of_the_search_space():
    sweep = make(bounds=["lam=1e-7:1e-2", "wcr.lam=1e-8:1e-3", "opt/rho=0.3:0.4"], optimizer=("sam",))
    arms = {arm.name: arm for arm in make_arms(sweep)}
    assert arms["sam + wcr"].space["lam"] == Float(1e-8, 1e-3, log=True)
    assert arms["sam + hoyer_square"].space["lam"] == Float(1e-7, 1e-2, log=True)
    for arm in arms.values():
        rho = arm.space["opt/rho"]
        assert (rho.low, rho.high) == (0.3, 0.4)
        assert rho.low <= arm.initial_point.get("opt/rho", rho.low) <= rho.high
    with pytest.raises(ValueError, match=r"range: must be of a parameter that is searched \(among .*\), got opt/beta"):
        make_arms(make(bounds=["opt/beta=0:1"]))
    with pytest.raises(ValueError, match=r"range: must be positive for a parameter with a logarithmic scale, got 0:1"):
        make_arms(make(bounds=["lam=0:1"]))


@pytest.mark.parametrize("name", SWEEPS)
def test_the_identity_makes_the_same_sweep_again(name):
    sweep = load_sweep(name).changed(max_dense_drop=0.01, max_macs_left=0.4)
    again = SweepSpec.from_identity(json.loads(json.dumps(sweep.identity())), name="again")
    assert again.identity() == sweep.identity()
    assert again.search == sweep.search
