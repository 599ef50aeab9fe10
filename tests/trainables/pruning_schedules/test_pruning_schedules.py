"""Which weights each round removes, where it begins, and which network is reported at each sparsity."""

import copy
import itertools

import numpy as np
import pytest
import torch

import sparsity
from trainables.config import TrialConfig
from trainables.loop import Training
from trainables.lottery import has_sparsity
from trainables.pruning_schedule import make_pruning_schedule
from trainables.pruning_schedules.imp import rounds
from trainables.result import read_result
from trainables.runner import TrialRunner

MASKED = {"pruning_schedule": "concave_mask", "regularizer": "concave_mask", "lam": 3e-2}
LOTTERY = {"max_epochs": 2, "num_evaluations": 2, "target_sparsity": 0.8, "sparsities": (0.6,)}
OPTIMIZERS = {
    "sgd": {},
    "sam": {"rho": 0.1},
    "s2sam": {"rho": 0.1},
    "cram": {},
    "friendly_sam": {"rho": 0.1},
    "safe": {"admm_lam": 1.0, "interval": 2},
    "sfw": {"lr": 1.0},
    "adamw": {"lr": 0.01},
}


@pytest.fixture
def begin(make_task, tiny):
    def begin(**fields):
        config = tiny(**{**LOTTERY, **fields})
        return Training(make_task(config), config)

    return begin


def weights_of(training):
    return {name: w.detach().clone() for name, w in training.task.prunable(training.trained_model()).items()}


def play(training):
    """Train to the end. Returns the first and last weights, the gates and the masks of each phase."""
    history = []
    while not training.finished:
        begun, phase, kept = weights_of(training), training.phase, dict(training.lottery.masks)
        while not training.finished and training.phase == phase:
            before = training.epoch
            training.run_epoch()
            names, gated = training.gated_names, hasattr(training.regularizer, "gate_values")
            gates = dict(zip(names, copy.deepcopy(training.regularizer.gate_values()), strict=True)) if gated else {}
            ended = weights_of(training)
            assert training.epoch == before + 1
            training.end_phase()
        history.append({"begun": begun, "ended": ended, "gates": gates, "kept": kept})
    return history


def flat(tensors):
    return np.concatenate([tensor.numpy().ravel() for tensor in tensors.values()])


# ---- iterative magnitude pruning -----------------------------------------------------------------------------------


def test_a_round_of_imp_removes_a_fifth_of_the_remaining_weights():
    """20% per round to four sparsities: 0.4 after 4 rounds (0.8^4 = 0.41), then halving in 3 rounds (0.8^3 = 0.51)."""
    levels = (0.0, 0.6, 0.8, 0.9, 0.95)
    left = [1.0, *(1 - s for s in rounds(levels, 0.2))]
    assert len(left) == 1 + 4 + 3 + 3 + 3
    removed = [1 - b / a for a, b in itertools.pairwise(left)]
    assert min(removed) > 0.2
    assert max(removed) < 0.21
    assert set(levels[1:]) <= set(rounds(levels, 0.2))


def test_imp_keeps_the_largest_remaining_weights(begin):
    training = begin(pruning_schedule="imp")
    history = play(training)
    assert len(history) == training.lottery.schedule.num_phases == 1 + 4 + 3
    num_weights = flat(history[0]["begun"]).size
    alive = np.ones(num_weights, bool)
    for phase, (sparsity_after, now) in enumerate(zip(training.lottery.schedule.sparsities, history[:-1], strict=True)):
        order = np.argsort(np.where(alive, np.abs(flat(now["ended"])), -1.0), kind="stable")
        alive = np.ones(num_weights, bool)
        alive[order[: round(sparsity_after * num_weights)]] = False
        assert np.array_equal(flat(history[phase + 1]["kept"]), alive), f"round {phase}"


@pytest.mark.parametrize("rewind_epoch", [0, 1])
def test_remaining_weights_are_rewound(begin, rewind_epoch):
    first = begin(pruning_schedule="imp")
    origin = weights_of(first)
    if rewind_epoch:
        first.run_epoch()
        origin = weights_of(first)
    for phase in play(begin(pruning_schedule="imp", pruning_sched={"rewind_epoch": rewind_epoch}))[1:]:
        for name, mask in phase["kept"].items():
            assert torch.equal(phase["begun"][name], origin[name] * mask)


@pytest.mark.parametrize("regularizer", ["concave_mask", "l0_hard_concrete", "weight_factorization"])
def test_gates_are_rewound_with_the_weights(begin, regularizer):
    training = begin(pruning_schedule="imp", pruning_sched={"rewind_epoch": 1}, regularizer=regularizer, lam=1e-3)
    training.run_epoch()
    weights = [weight.detach().clone() for weight in training.regularizer.weights]
    gates = copy.deepcopy(training.regularizer.state_dict())
    training.end_phase()
    training.run_epoch()
    training.end_phase()
    assert training.phase == 1
    assert all(torch.equal(gate, gates[name]) for name, gate in training.regularizer.state_dict().items())
    begun = zip(training.gated_names, training.regularizer.weights, weights, strict=True)
    for name, weight, early in begun:
        assert torch.equal(weight, early * training.lottery.masks.get(name, torch.ones_like(early)))


@pytest.mark.parametrize("regularizer", ["none", "wcr"])
@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_removed_weights_stay_exactly_zero(begin, optimizer, regularizer):
    assert sorted(OPTIMIZERS) == sparsity.names("optimizers")
    opt = {"lr": 0.05, "weight_decay": 1e-2, **OPTIMIZERS[optimizer]}
    if optimizer == "sfw":
        del opt["weight_decay"]
    lam = 1e-5 if regularizer == "wcr" else 0.0
    training = begin(
        pruning_schedule="imp",
        pruning_sched={"fraction": 0.5},
        optimizer=optimizer,
        opt=opt,
        regularizer=regularizer,
        lam=lam,
    )
    for phase in play(training):
        for name, mask in phase["kept"].items():
            assert (phase["ended"][name][~mask] == 0).all()
            assert phase["ended"][name][mask].count_nonzero() > 0.9 * mask.sum()


def test_each_sparsity_has_a_network_that_was_trained_at_it(begin):
    training = begin(pruning_schedule="imp", num_evaluations=1)
    history = play(training)
    metrics = training.evaluate((0.0, 0.6, 0.8))
    for level, phase in ((0.0, 0), (0.6, 4), (0.8, 7)):
        network = training.networks((level,))[level]
        assert torch.equal(flat_tensor(training.task.prunable(network)), flat_tensor(history[phase]["ended"]))
        assert metrics.metrics[level] == {
            **training.task.evaluate(network, "validation"),
            "weights_left": pytest.approx(1 - level, abs=2e-3),
        }


def test_every_sparsity_is_met_with_uniform_scope(begin):
    training = begin(pruning_schedule="imp", scope="uniform", num_evaluations=1, recalibrate=True)
    play(training)
    assert set(training.lottery.tickets) == {0.0, 0.6, 0.8}
    metrics = training.evaluate((0.0, 0.6, 0.8)).metrics
    assert all({"acc", "weights_left"} <= row.keys() for row in metrics.values())


def flat_tensor(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])


def test_the_dense_network_is_that_of_one_shot(begin):
    one_shot, imp = begin(num_evaluations=1), begin(pruning_schedule="imp", num_evaluations=1)
    play(imp)
    while not one_shot.finished:
        one_shot.train_to_evaluation()
    assert one_shot.evaluate((0.0,)).metrics[0.0].items() <= imp.evaluate((0.0,)).metrics[0.0].items()


# ---- the concave mask ----------------------------------------------------------------------------------------------


def test_threshold_removes_weights_whose_mask_is_below_alpha(begin):
    training = begin(**MASKED, pruning_sched={"alpha": 0.46, "rounds": 2}, reg={"start": 0.5})
    history = play(training)
    assert len(history) == 5
    removed_before = 0
    for index in (1, 3):
        phase, following = history[index], history[index + 1]
        assert phase["gates"]
        assert not following["gates"]
        for name, mask in following["kept"].items():
            before = phase["kept"].get(name, torch.ones_like(mask))
            assert torch.equal(mask, before & (phase["gates"][name] >= 0.46))
        removed = (~flat_tensor(following["kept"])).sum()
        assert removed > removed_before
        removed_before = removed


def test_rank_meets_every_sparsity_with_the_lowest_masks(begin):
    training = begin(**MASKED, pruning_sched={"select": "rank"})
    history = play(training)
    assert len(history) == 5  # dense, then two rounds of two
    for index, level in ((1, 0.6), (3, 0.8)):
        kept = flat(history[index + 1]["kept"])
        gates = flat({name: history[index]["gates"][name] for name in history[index + 1]["kept"]})
        before = flat(history[index]["kept"]) if history[index]["kept"] else np.ones_like(kept)
        assert (~kept).sum() == round(level * kept.size)
        assert kept[~before].sum() == 0
        assert gates[kept].min() >= gates[before & ~kept].max() - 1e-8
    assert [round(row["weights_left"], 2) for row in training.evaluate((0.0, 0.6, 0.8)).metrics.values()] == [
        1,
        0.4,
        0.2,
    ]


def test_a_sparsity_that_no_round_reached_is_pruned_further(begin):
    training = begin(**{**MASKED, "lam": 1e-9}, pruning_sched={"rounds": 1}, num_evaluations=1)  # no mask closes
    play(training)
    evaluation = training.evaluate((0.0, 0.6, 0.8))
    assert set(training.lottery.tickets) == {0.0}
    assert evaluation.metrics[0.8]["weights_left"] == pytest.approx(0.2, abs=1e-3)
    assert has_sparsity(evaluation.masks[0.8], 0.8)


# ---- as a trial ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"pruning_schedule": "imp", "pruning_sched": {"rewind_epoch": 1}},
        {**MASKED, "pruning_sched": {"select": "rank"}},
    ],
)
def test_a_trial_killed_after_every_evaluation_equals_an_undisturbed_one(fields, make_task, tiny, tmp_path):
    config = tiny(**{**LOTTERY, "sparsities": (), "target_sparsity": 0.6, "read_test": True, **fields})
    whole = TrialRunner(config, tmp_path / "whole", lambda: make_task(config))
    while whole.advance()["status"] == "running":
        pass
    while TrialRunner(config, tmp_path / "killed", lambda: make_task(config)).advance()["status"] == "running":
        pass
    results = [read_result(tmp_path / name) for name in ("whole", "killed")]
    for result in results:
        for evaluation in (result["report"], *result["evaluations"]):
            del evaluation["seconds"]
    assert results[0] == results[1]
    assert [evaluation["weights_left"] for evaluation in results[0]["evaluations"]] == sorted(
        (evaluation["weights_left"] for evaluation in results[0]["evaluations"]), reverse=True
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"pruning_schedule": "imp", "pruning_sched": {"fraction": 1.0}},
            r"pruning_sched: fraction must be in \(0, 1\), got 1",
        ),
        (
            {"pruning_schedule": "imp", "pruning_sched": {"rewind_epoch": 2}},
            "pruning_sched: rewind_epoch must be a whole number from 0 .* to 1 .*, got 2",
        ),
        (
            {"pruning_schedule": "imp", "pruning_sched": {"rewind_epoch": 0.5}},
            "pruning_sched: rewind_epoch must be a whole number from 0 .* to 1 .*, got 0.5",
        ),
        (
            {**MASKED, "scope": "2:4", "target_sparsity": 0.5, "sparsities": ()},
            "scope: must be global, uniform or row with select=threshold .*, got 2:4",
        ),
        (
            {"pruning_schedule": "imp", "pruning_sched": {"rounds": 2}},
            "pruning_sched: arguments of .* must be among fraction, rewind_epoch, got 'rounds'",
        ),
        (
            {"pruning_schedule": "imp", "target_sparsity": 0.0, "sparsities": ()},
            "sparsity: one must be above 0 with imp .*",
        ),
        (
            {"pruning_schedule": "imp", "scope": "2:4", "target_sparsity": 0.5, "sparsities": ()},
            "scope: must be global or uniform with imp .*, got 2:4",
        ),
        (
            {**MASKED, "pruning_sched": {"alpha": 0.0}},
            r"pruning_sched: alpha must be in \(0, 1\) \(a value of the mask\), got 0",
        ),
        ({**MASKED, "pruning_sched": {"rounds": 0}}, "pruning_sched: rounds must be a whole number >= 1, got 0"),
        (
            {**MASKED, "pruning_sched": {"select": "best"}},
            "pruning_sched: select must be one of threshold, rank, got 'best'",
        ),
        (
            {"pruning_schedule": "concave_mask"},
            "pruning_schedule: must have the regularizer concave_mask and lam > 0 .*, got none with lam 0",
        ),
    ],
)
def test_refuses_bad_input_in_one_line(tiny, fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_pruning_schedule(tiny(**{**LOTTERY, **fields}))


@pytest.mark.parametrize(("select", "expected"), [("threshold", [True, True]), ("rank", [False, True])])
def test_weights_without_a_gate_count_as_open(tiny, select, expected):
    """Frozen ones, which --prunable may name: a threshold keeps them, a rank decides by |w| among the open ones."""
    fields = LOTTERY | MASKED | {"target_sparsity": 0.5, "sparsities": (), "pruning_sched": {"select": select}}
    schedule = make_pruning_schedule(tiny(**fields))
    kept = {name: torch.ones(2, dtype=torch.bool) for name in ("gated", "frozen")}
    scores = {"gated": torch.tensor([5.0, 6.0]), "frozen": torch.tensor([1.0, 2.0])}
    found = schedule.next_masks(1, kept, lambda: scores, lambda: {"gated": torch.tensor([0.0, 1.0])})
    assert found["frozen"].tolist() == expected
    assert found["gated"].tolist() == [False, True]


def test_refuses_early_stopping_with_rounds(tiny):
    with pytest.raises(ValueError, match="patience: must not be given with pruning_schedule imp"):
        TrialConfig.model_validate({**tiny().model_dump(), "pruning_schedule": "imp", "patience": 2})
