import json

import pytest
from pydantic import ValidationError

import sparsity
from trainables.config import TrialConfig
from trainables.pruning_method import PruningMethod, check_sparsity

FIELDS = {
    "dataset": "digits",
    "architecture": "small_resnet",
    "max_epochs": 40,
    "batch_size": 64,
    "target_sparsity": 0.96,
}
CHOICES = {
    "task": "trainables.tasks",
    "architecture": "trainables.architectures",
    "optimizer": "sparsity.optimizers",
    "regularizer": "sparsity.regularizers",
    "lr_schedule": "trainables.lr_schedules",
    "criterion": "sparsity.criteria",
}


def faults(**fields):
    """What is said of these fields, a line for each fault, as a sweep's command line shows it."""
    with pytest.raises(ValidationError) as caught:
        TrialConfig.model_validate({**FIELDS, **fields})
    return [(fault["loc"], fault["msg"].removeprefix("Value error, ")) for fault in caught.value.errors()]


def test_takes_what_is_valid():
    config = TrialConfig(**FIELDS)
    assert (config.optimizer, config.regularizer, config.lam, config.opt) == ("sgd", "none", 0, {"lr": 0.1})
    assert not config.read_test


def test_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        TrialConfig(**FIELDS).lam = 1.0


def test_unknown_fields_are_refused():
    assert faults(learning_rate=0.1) == [(("learning_rate",), "Extra inputs are not permitted")]


@pytest.mark.parametrize("field", ["dataset", "architecture", "max_epochs", "target_sparsity"])
def test_what_has_no_default_must_be_given(field):
    with pytest.raises(ValidationError, match=f"{field}\n  Field required"):
        TrialConfig.model_validate({name: value for name, value in FIELDS.items() if name != field})


@pytest.mark.parametrize("field", CHOICES)
@pytest.mark.parametrize("name", ["nothing", "_base", ""])
def test_an_unknown_name_is_answered_with_the_valid_ones(field, name):
    ((where, message),) = faults(**{field: name})
    assert where == (field,)
    assert message == f"{field}: must be one of {', '.join(sparsity.names(CHOICES[field]))}, got {name!r}"


@pytest.mark.parametrize("value", [1.0, 1.5, -0.01, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["target_sparsity", "sparsities"])
def test_sparsity_outside_its_range(field, value):
    ((where, message),) = faults(**{field: (0.5, value) if field == "sparsities" else value})
    assert where[0] == field
    assert message == f"sparsity: must be in [0, 1) (the fraction of weights removed), got {value:g}"


@pytest.mark.parametrize("value", [0.0, 0.5, 0.999])
def test_sparsity_inside_its_range(value):
    assert check_sparsity(value) == value


@pytest.mark.parametrize("lam", [-1e-9, float("nan"), float("inf"), float("-inf")])
def test_lam_outside_its_range(lam):
    assert faults(regularizer="wcr", lam=lam) == [
        (("lam",), f"lam: must be >= 0 and finite (it scales a penalty), got {lam:g}")
    ]


def test_lam_needs_a_regularizer():
    assert faults(lam=1e-5) == [((), "lam: must be 0 without a regularizer (nothing is scaled), got 1e-05")]
    assert TrialConfig(**FIELDS, regularizer="l1", lam=1e-5).lam == 1e-5


@pytest.mark.parametrize("group", ["model", "opt", "reg", "lr_sched"])
def test_a_fault_in_arguments_names_the_argument(group):
    for value in (float("nan"), float("inf"), float("-inf")):
        assert faults(**{group: {"fine": 1.0, "rho": value}}) == [
            ((group,), f"{group}/rho: must be finite, got {value}")
        ]
    assert faults(**{group: {"betas": (0.9, 0.99)}}) == [
        ((group,), f"{group}/betas: must be a number, true, false or a word, got (0.9, 0.99)")
    ]


def test_arguments_keep_their_types():
    arguments = {"width": 16, "rho": 1.0, "adaptive": True, "base": "adamw"}
    kept = TrialConfig(**FIELDS, opt=arguments).opt
    assert [(name, type(value), value) for name, value in kept.items()] == [
        (name, type(value), value) for name, value in arguments.items()
    ]


@pytest.mark.parametrize("field", ["max_epochs", "batch_size", "num_evaluations", "train_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "many"])
def test_counts(field, value):
    ((where, message),) = faults(**{field: value})
    assert where == (field,)
    assert message.startswith("Input should be")


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_are_what_torch_takes(seed):
    assert [where for where, _ in faults(seed=seed)] == [("seed",)]
    assert TrialConfig(**FIELDS, seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize("scope", ["layerwise", "", "4:2", "0:4", "2:4:8", "2:"])
def test_unknown_scope(scope):
    assert faults(scope=scope) == [
        ((), f"scope: must be one of global, uniform, row, n:m with 1 <= n <= m (such as 2:4), got {scope!r}")
    ]


def test_n_of_m_has_one_level():
    assert TrialConfig(**{**FIELDS, "scope": "2:4", "target_sparsity": 0.5}).levels == (0, 0.5)
    assert TrialConfig(**{**FIELDS, "scope": "1:3", "target_sparsity": 0.6666666667}).scope == "1:3"
    assert faults(scope="2:4") == [((), "sparsity: must be 0.5 with scope 2:4 (it has no other), got 0.96")]
    assert faults(scope="2:4", target_sparsity=0.5, sparsities=[0.25]) == [
        ((), "sparsity: must be 0.5 with scope 2:4 (it has no other), got 0.25")
    ]


# ---- what follows from a configuration ---------------------------------------------------------------------------


def test_key_is_pinned():
    """Folders and MLflow runs are found by it: where this fails, recorded trials are no longer found."""
    assert TrialConfig(**FIELDS).key == "09c7ff6194e6e3a5"


def test_key_ignores_the_order_of_fields_and_arguments():
    one = TrialConfig(**FIELDS, opt={"lr": 0.1, "rho": 0.5})
    other = TrialConfig(**dict(reversed(FIELDS.items())), opt={"rho": 0.5, "lr": 0.1})
    assert list(one.opt) != list(other.opt)
    assert one.key == other.key


def test_key_survives_json():
    config = TrialConfig(**FIELDS, regularizer="wcr", lam=1e-5 / 3, sparsities=(0.9, 0.1 + 0.2), opt={"lr": 1e-300})
    assert TrialConfig.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))).key == config.key


CHANGES = {
    "task": "vit",
    "task_args": {"prune": "qk"},
    "dataset": "cifar10",
    "data": {"image_size": 16},
    "architecture": "resnet18",
    "model": {"width": 8},
    "train_size": 100,
    "eval_size": 100,
    "optimizer": "sam",
    "opt": {"lr": 0.2},
    "regularizer": "l1",
    "reg": {"eps": 1e-9},
    "lam": 1e-5,
    "lr_schedule": "cosine",
    "lr_sched": {"gamma": 0.5},
    "pruning_schedule": "imp",
    "pruning_sched": {"fraction": 0.5},
    "max_epochs": 41,
    "batch_size": 65,
    "accumulate": 2,
    "patience": 3,
    "num_evaluations": 9,
    "criterion": "random",
    "crit": {"num_probes": 1},
    "scope": "uniform",
    "min_kept": 1,
    "recalibrate": True,
    "prunable": "conv",
    "num_sharpness_batches": 1,
    "target_sparsity": 0.97,
    "sparsities": (0.5,),
    "more_pruning": ({"scope": "uniform"},),
    "seed": 1,
    "read_test": True,
}


PRUNING = {
    "criterion",
    "crit",
    "scope",
    "min_kept",
    "recalibrate",
    "prunable",
    "more_pruning",
    "target_sparsity",
    "sparsities",
}


def keys(names, kind="key", **base):
    """The keys of a configuration and of those with one of these fields changed."""
    base = {**FIELDS, "regularizer": "wcr", **base}
    configs = [base, *({**base, name: CHANGES[name]} for name in names)]
    return [getattr(TrialConfig(**fields), kind) for fields in configs]


def test_key_depends_on_every_field_but_those_of_pruning():
    """Another way to prune, or another sparsity, trains nothing new."""
    assert set(CHANGES) == set(TrialConfig.model_fields) - {"sources", "criterion_source"}  # of import strings
    others = set(CHANGES) - PRUNING - {"num_evaluations"}
    assert len(set(keys(others))) == len(others) + 1
    assert len(set(keys({*PRUNING, "num_evaluations"}))) == 1


def test_training_key_leaves_out_what_is_measured_once():
    measured = {"read_test", "num_sharpness_batches"}
    others = set(CHANGES) - PRUNING - measured - {"num_evaluations"}
    assert len(set(keys(others, "training_key"))) == len(others) + 1
    assert len(set(keys(measured, "training_key"))) == 1


def test_how_the_test_split_is_answered_is_in_the_key_of_trials_that_read_it_only():
    def configs(**fields):
        args = [{"r": 8}, {"r": 8, "answer": "choose"}, {"r": 8, "answer": "generate"}]
        return [TrialConfig(**FIELDS, task="lora", task_args=arguments, **fields) for arguments in args]

    assert len({config.key for config in configs()}) == 1  # the search
    plain, choose, generate = (config.key for config in configs(read_test=True))
    assert plain == choose != generate
    assert len({config.training_key for config in (*configs(), *configs(read_test=True))}) == 1
    bare, answered = (TrialConfig(**FIELDS, task="lora", task_args=a) for a in ({}, {"answer": "generate"}))
    assert bare.key == answered.key
    trained = [TrialConfig(**FIELDS, task="lora", task_args={"train_on_inputs": on}) for on in (False, True)]
    assert trained[0].training_key != trained[1].training_key
    own = [TrialConfig(**FIELDS, task_args={"answer": a}).training_key for a in ("choose", "generate")]
    assert own[0] != own[1]  # another task's argument of that name


def test_evaluations_and_pruning_that_decide_the_training_are_in_its_key():
    assert len(set(keys(["num_evaluations"], patience=2))) == 2  # early stopping looks at each evaluation
    names = PRUNING - {"more_pruning"}
    assert len(set(keys(names, pruning_schedule="imp"))) == len(names) + 1  # rounds are pruned during the training


@pytest.mark.parametrize("scope", ["row", "2:4"])
def test_min_kept_does_not_go_with_a_scope_of_fixed_counts(scope):
    with pytest.raises(ValueError, match=f"min_kept: must be 0 with scope {scope} .*, got 3"):
        PruningMethod(scope=scope, min_kept=3)


def test_methods_of_pruning():
    uniform, ratio = {"scope": "uniform", "min_kept": 2}, {"scope": "2:4", "criterion": "snip"}
    config = TrialConfig(**FIELDS, criterion="random", more_pruning=(uniform, ratio, {"criterion": "random"}))
    labels = ["random global", "magnitude uniform min_kept=2", "snip 2:4"]
    assert [method.label for method in config.pruning] == labels
    levels = [config.pruned_by(method).levels for method in config.pruning]
    assert levels == [(0, 0.96), (0, 0.96), (0, 0.5)]
    for method in config.pruning:
        alone = config.pruned_by(method)
        assert alone.pruning == (method,)
        assert alone.key == config.key


def test_labels_tell_methods_apart():
    fields = {"criterion": "random", "crit": {"num_batches": 2}, "scope": "uniform", "min_kept": 1, "recalibrate": True}
    labels = {PruningMethod(**{name: value}).label for name, value in fields.items()}
    assert len({*labels, PruningMethod().label}) == 6


def test_a_lottery_has_one_method():
    ((_, message),) = faults(pruning_schedule="imp", more_pruning=({"scope": "uniform"},))
    assert message == (
        "criterion: must be a single one with a single scope for pruning_schedule imp (it prunes during training), got "
        "magnitude global, magnitude uniform"
    )


@pytest.mark.parametrize(
    ("target", "others", "levels"),
    [
        (0.96, (), (0, 0.96)),
        (0.96, (0.98, 0.9), (0, 0.9, 0.96, 0.98)),
        (0.96, (0.96, 0.0, 0.5, 0.5), (0, 0.5, 0.96)),
        (0.0, (), (0,)),
    ],
)
def test_levels(target, others, levels):
    assert TrialConfig(**{**FIELDS, "target_sparsity": target}, sparsities=others).levels == levels


@pytest.mark.parametrize(
    ("max_epochs", "num_evaluations", "evaluations"),
    [
        (1, 8, (1,)),
        (3, 8, (1, 2, 3)),
        (8, 8, (1, 2, 3, 4, 5, 6, 7, 8)),
        (10, 4, (2, 5, 8, 10)),  # 2.5, 5, 7.5, 10: halves to the even one
        (200, 8, (25, 50, 75, 100, 125, 150, 175, 200)),
        (200, 1, (200,)),
    ],
)
def test_evaluations(max_epochs, num_evaluations, evaluations):
    assert (
        TrialConfig(**{**FIELDS, "max_epochs": max_epochs}, num_evaluations=num_evaluations).evaluation_epochs
        == evaluations
    )


def test_evaluations_rise_to_the_last_epoch():
    for max_epochs in range(1, 40):
        for num_evaluations in range(1, 45):
            evaluations = TrialConfig(
                **{**FIELDS, "max_epochs": max_epochs}, num_evaluations=num_evaluations
            ).evaluation_epochs
            assert len(evaluations) == min(max_epochs, num_evaluations)
            assert evaluations[-1] == max_epochs
            assert all(a < b for a, b in zip((0, *evaluations), evaluations, strict=False))
