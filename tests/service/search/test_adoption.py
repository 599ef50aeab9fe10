import contextlib
import json

import pytest
from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

from search_spaces import by_optimizer, by_regularizer
from service.records.recorder import Recorder
from service.records.software import software_versions
from service.records.state import State
from service.search.adoption import Adoptable, admit, adopted_points, left_out, parameters_of
from service.search.space import make_arms, make_config
from service.spec import SweepSpec
from tests.service._sweeps import make
from trainables.config import TrialConfig

LAM, RHO = Float(1e-6, 1e-4, log=True), Float(0.02, 0.5, log=True)


def space(*, regularizers=("none", "wcr"), lam=LAM, rho=RHO, **ranges):
    return {
        "optimizer": Categorical(("sgd", "sam")),
        "regularizer": Categorical(regularizers),
        "lam": by_regularizer(wcr=lam, l1=Float(1e-6, 1e-3, log=True)),
        "opt/rho": by_optimizer(sam=rho),
        **ranges,
    }


FIELDS = {"tuning": "paper", "num_trials": 3, "num_search_seeds": 2, "opt": {"lr": 0.1}, "ranges": space()}


@pytest.fixture
def sweep(tmp_path):
    return make(runs=tmp_path, name="first", **FIELDS)


@pytest.fixture
def recorded(sweep):
    """A function: the recorder of a sweep with six search trials and two of the confirmation."""
    with contextlib.ExitStack() as stack:

        def record(sweep=sweep):
            records = stack.enter_context(contextlib.closing(Recorder(sweep.folder)))
            records.sweep_begun(sweep.identity(), data="digits")
            for optimizer, regularizer, params in (
                ("sgd", "none", {}),
                ("sgd", "wcr", {"lam": 1e-5}),
                ("sam", "wcr", {"lam": 5e-5, "opt/rho": 0.4}),
            ):
                choices = {"optimizer": optimizer, "regularizer": regularizer}
                for seed in (0, 1):
                    end(records, "search", make_config(sweep, choices, params, seed=seed))
                if regularizer == "wcr":
                    end(records, "confirm", make_config(sweep, choices, params, seed=2, read_test=True))
            return records

        yield record


def end(records, phase, config):
    """Record a finished trial as its worker leaves it."""
    records.trial_started(
        config.key,
        phase=phase,
        arm=f"{config.optimizer} + {config.regularizer}",
        number=len(records.state.trials),
        config=config.model_dump(mode="json"),
    )
    curve = [{"sparsity": s, "acc": 0.9, "collapsed": 0.0} for s in config.levels]
    test = curve if config.read_test else None
    method = config.pruning[0]
    entry = {"label": method.label, "method": method.model_dump(mode="json"), "curve": curve, "test": test}
    report = {"status": "finished", "reason": "", "epoch": 1, "acc_dense": 0.9, "acc_pruned": 0.9}
    folder = records.state.trial_folder(config.key)
    folder.mkdir(parents=True)
    result = {"report": report, "config": config.model_dump(mode="json"), "notes": [], "pruned": [entry]}
    (folder / "trained").mkdir()
    (folder / "trained" / "config.json").write_text("{}")
    (folder / "result.json").write_text(json.dumps(result))
    records.trial_ended(config.key)


def kept(sweep, state):
    """Which recorded trials fit: (arm, phase, seed)."""
    out = set(left_out(sweep, make_arms(sweep), state))
    return {(t.arm, t.phase, t.config["seed"]) for t in state.trials.values() if t.key not in out}


NONE = {("sgd + none", "search", 0), ("sgd + none", "search", 1)}
SGD = {("sgd + wcr", "search", 0), ("sgd + wcr", "search", 1), ("sgd + wcr", "confirm", 2)}
SAM = {("sam + wcr", "search", 0), ("sam + wcr", "search", 1), ("sam + wcr", "confirm", 2)}
ALL = NONE | SGD | SAM

CHANGES = {
    "nothing": ({}, ALL),
    # ---- what says how networks are pruned, evaluated, searched or stored decides no training
    "target_sparsity": ({"target_sparsity": 0.9}, ALL),
    "sparsities": ({"sparsities": (0.99,)}, ALL),
    "criterion": ({"criterion": ("snip", "magnitude")}, ALL),
    "scope": ({"scope": ("uniform",)}, ALL),
    "min_kept": ({"min_kept": 1}, ALL),
    "prunable": ({"prunable": "conv"}, ALL),
    "recalibrate": ({"recalibrate": True}, ALL),
    "num_evaluations": ({"num_evaluations": 2}, ALL),
    "objective": ({"objective": "area", "sparsities": (0.9,)}, ALL),
    "max_dense_drop": ({"max_dense_drop": 0.01}, ALL),
    "max_macs_left": ({"max_macs_left": 0.4}, ALL),
    "num_trials": ({"num_trials": 9}, ALL),
    "sampler": ({"sampler": "gp"}, ALL),
    "num_seeds": ({"num_seeds": 9}, ALL),
    "num_confirm": ({"num_confirm": 1}, ALL),
    "race": ({"race": False}, ALL),
    "keep": ({"keep": "all"}, ALL),
    # ---- what is searched
    "a regularizer more": ({"ranges": space(regularizers=("none", "wcr", "l1"))}, ALL),
    "a regularizer less": ({"ranges": space(regularizers=("wcr",))}, SGD | SAM),
    "optimizer": ({"optimizer": ("sgd",)}, NONE | SGD),
    "regularizer": ({"regularizer": ("none",)}, NONE),
    "a wider range": ({"ranges": space(lam=Float(1e-7, 1e-3, log=True))}, ALL),
    "a narrower range": ({"ranges": space(lam=Float(1e-6, 2e-5, log=True))}, NONE | SGD),
    "a narrower rho": ({"ranges": space(rho=Float(0.02, 0.1, log=True))}, NONE | SGD),
    "one more parameter, whose range has the held value": (
        {"tuning": "fair", "tuned": {"opt/lr": Float(0.01, 1.0, log=True)}},
        ALL,
    ),
    "one more parameter, whose range lacks it": ({"tuning": "fair", "tuned": {"opt/lr": Float(0.2, 1.0)}}, None),
    "bounds": ({"bounds": {"lam": (1e-6, 2e-5), "sam.opt/rho": (0.3, 0.5)}}, NONE | SGD),
    "lam": ({"lam": 1e-5}, NONE | SGD),
    "rho": ({"rho": 0.4}, ALL),
    # ---- seeds: those of the search become unseen ones, and the other way round
    "seed": ({"seed": 1}, {(arm, "search", 1) for arm in ("sgd + none", "sgd + wcr", "sam + wcr")}),
    "num_search_seeds": ({"num_search_seeds": 3}, {trial for trial in ALL if trial[1] == "search"}),
    "num_finalists": ({"num_finalists": 2}, {trial for trial in ALL if trial[1] == "search"}),
    "num_finalist_seeds": ({"num_finalist_seeds": 3}, ALL),  # without several finalists it has no effect
    "fewer search seeds": ({"num_search_seeds": 1}, {trial for trial in ALL if trial[2] != 1}),
    # ---- what decides the training
    "max_epochs": ({"max_epochs": 2}, None),
    "batch_size": ({"batch_size": 64}, None),
    "accumulate": ({"accumulate": 2}, None),
    "architecture": ({"architecture": "resnet18"}, None),
    "model": ({"model": {"width": 8}}, None),
    "dataset": ({"dataset": "cifar10"}, None),
    "data": ({"data": {"fold": 1}}, None),
    "task": ({"task": "vit"}, None),
    "task_args": ({"task_args": {"a": 1}}, None),
    "train_size": ({"train_size": 100}, None),
    "eval_size": ({"eval_size": 100}, None),
    "opt": ({"opt": {"lr": 0.2}}, None),
    "reg": ({"reg": {"eps": 1e-6}}, NONE),
    "lr_schedule": ({"lr_schedule": "cosine"}, None),
    "lr_sched": ({"lr_sched": {"a": 1}}, None),
    "patience": ({"patience": 2}, None),
    "pruning_schedule": ({"pruning_schedule": "imp"}, None),
    "pruning_sched": ({"pruning_sched": {"fraction": 0.5}}, None),
    "num_sharpness_batches": ({"num_sharpness_batches": 1}, None),
}
UNRELATED = {"name", "runs", "data_root", "cpus_per_trial", "gpus_per_trial", "max_concurrent", "tracking_uri"} | {
    *(
        "study_uri",
        "reuse_best",
        "range_from",
        "adopt",
        "hold",
        "tuning",
        "search",
        "trial",
        "crit",
        "more_pruning",
        "read_test",
        "sizes",
    ),
    "export",
    *("sources", "criterion_source"),  # of import strings: tests/trainables/test_own_code.py
}


def test_each_field_of_a_sweep_is_changed_in_turn():
    fields = set(SweepSpec.model_fields) | set(TrialConfig.model_fields)
    assert fields - UNRELATED == {name for name in CHANGES if name in fields}


@pytest.mark.parametrize("name", CHANGES)
def test_what_fits_a_changed_sweep(sweep, recorded, name):
    change, expected = CHANGES[name]
    state = recorded().state
    if expected is None:
        other = make(runs=sweep.runs, name="first", **{**FIELDS, **change})
        with pytest.raises(ValueError, match=r"none of them fits \(.*\): choose another --name"):
            left_out(other, make_arms(other), state)
        return
    other = make(runs=sweep.runs, name="first", **{**FIELDS, **change})
    assert kept(other, state) == expected


def test_adopted_points_are_the_configurations_that_fit(sweep, recorded):
    state = recorded().state
    arms = make_arms(sweep)
    points = adopted_points(sweep, arms, [state])
    assert points == {
        "sgd + none": [{}],
        "sgd + wcr": [{"lam": 1e-5}],
        "sam + wcr": [{"lam": 5e-5, "opt/rho": 0.4}],
    }
    trial = next(t for t in state.trials.values() if t.arm == "sam + wcr")
    assert parameters_of(sweep, arms, trial) == {"lam": 5e-5, "opt/rho": 0.4}


def test_no_arm_adopts_more_configurations_than_its_budget(sweep, recorded):
    records = recorded()
    for lam in (2e-6, 3e-6, 4e-6):
        end(records, "search", make_config(sweep, {"optimizer": "sgd", "regularizer": "wcr"}, {"lam": lam}))
    points = adopted_points(sweep, make_arms(sweep), [records.state])
    assert [point["lam"] for point in points["sgd + wcr"]] == [1e-5, 2e-6, 3e-6]  # num_trials is 3


# ---- continuing ----------------------------------------------------------------------------------------------------


def test_a_changed_sweep_continues_and_says_what_fits(sweep, recorded):
    records = recorded()
    narrower = sweep.changed(optimizer=("sgd",), num_search_seeds=2)
    (line,) = admit(narrower, make_arms(narrower), records, [], data="digits")
    assert line == (
        "the sweep was changed (optimizer: recorded (none), now sgd): 5 of its 8 finished trials fit and are kept; "
        "left out of the tables: 3"
    )
    state = records.state
    assert (state.num_changes, state.search_state, state.identity) == (1, {}, narrower.identity())
    assert {trial.arm for trial in state.finished("search")} == {"sgd + none", "sgd + wcr"}
    assert admit(narrower, make_arms(narrower), records, [], data="digits") == []
    (line,) = admit(sweep, make_arms(sweep), records, [], data="digits")  # and back: all fit again
    assert line.endswith("8 of its 8 finished trials fit and are kept")
    assert not any(trial.left_out for trial in records.state.trials.values())


def test_a_limit_on_sizes_tells_which_trials_have_none(sweep, recorded):
    records = recorded()  # without macs_left
    limited = sweep.changed(max_macs_left=0.5)
    _, line = admit(limited, make_arms(limited), records, [], data="digits")
    assert line.startswith(
        "max_macs_left: no size was recorded for 8 of 8 finished trials (as with --no-sizes). They count as"
    )
    for trial in records.state.trials.values():
        for row in trial.rows(records.state.goal.method):
            row["macs_left"] = 0.4
    assert admit(limited, make_arms(limited), records, [], data="digits") == []


def test_other_data_are_refused(sweep, recorded):
    records = recorded()
    with pytest.raises(
        ValueError, match=r"^data: must be the same as in .*first \(results on different data cannot be"
    ):
        admit(sweep, make_arms(sweep), records, [], data="other digits")


def test_other_software_is_told(sweep, recorded, monkeypatch):
    records = recorded()
    now = software_versions() | {"torch": "99.0"}
    monkeypatch.setattr("service.search.adoption.software_versions", lambda: now)
    (line,) = admit(sweep, make_arms(sweep), records, [], data="digits")
    assert line.startswith("first was started with other software (torch ")
    assert "99.0 now" in line


def test_a_sweep_without_finished_trials_may_change_into_any_other(sweep, tmp_path):
    with contextlib.closing(Recorder(sweep.folder)) as records:
        admit(sweep, make_arms(sweep), records, [], data="digits")
        other = sweep.changed(max_epochs=7)
        (line,) = admit(other, make_arms(other), records, [], data="digits")
        assert "max_epochs: recorded 1, now 7" in line


# ---- files of other trials -----------------------------------------------------------------------------------------


def test_trials_of_another_sweep_are_linked(sweep, recorded):
    first = recorded().state
    other = sweep.changed(name="second", max_epochs=1, target_sparsity=0.9)
    with contextlib.closing(Recorder(other.folder)) as records:
        assert admit(other, make_arms(other), records, [first], data="digits") == []
        adoptable = Adoptable(other.folder / "trials", records.state, [first])
        config = make_config(other, {"optimizer": "sgd", "regularizer": "wcr"}, {"lam": 1e-5})
        assert adoptable.take(config) == first.trial_folder(config.key)
        ours, theirs = (state.trial_folder(config.key) for state in (records.state, first))
        assert (ours / "result.json").stat().st_ino == (theirs / "result.json").stat().st_ino
        assert (ours / "trained" / "config.json").exists()
        assert adoptable.take(config) is None  # it is there
        new = make_config(other, {"optimizer": "sgd", "regularizer": "wcr"}, {"lam": 2e-5})
        assert adoptable.take(new) is None


def test_a_confirmation_takes_the_network_of_a_search_trial(sweep, recorded):
    records = recorded()
    fewer = sweep.changed(num_search_seeds=1)
    admit(fewer, make_arms(fewer), records, [], data="digits")
    adoptable = Adoptable(fewer.folder / "trials", records.state, [])
    config = make_config(fewer, {"optimizer": "sgd", "regularizer": "none"}, {}, seed=1, read_test=True)
    source = adoptable.take(config)
    assert source == records.state.trial_folder(config.model_copy(update={"read_test": False}).key)
    folder = records.state.trial_folder(config.key)
    assert [path.name for path in folder.iterdir()] == ["trained"]


def test_only_finished_trials_of_another_sweep_are_adopted(sweep, recorded):
    records = recorded()
    for trial in records.state.trials.values():
        trial.status = "diverged"
    other = sweep.changed(name="second")
    assert adopted_points(other, make_arms(other), [records.state]) == {}
    assert len(adopted_points(sweep, make_arms(sweep), [records.state])) == 3  # its own count, as failures


def test_a_sweep_without_records_cannot_be_adopted(sweep, recorded):
    records = recorded()
    empty = State(sweep.runs / "empty")
    with pytest.raises(ValueError, match="adopt: must be a sweep that has begun, got empty, whose records are empty"):
        admit(sweep, make_arms(sweep), records, [empty], data="digits")
