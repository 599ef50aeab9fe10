import contextlib
import copy
import math

import pytest
import torch
from torch import nn

import sparsity
from search_spaces import cnn, small_cnn, vit
from trainables import loop as training_module
from trainables.loop import Training
from trainables.penalty_ratio import LARGEST, PENALTY_RATIO_LIMIT, PenaltyRatio, is_measured, penalized
from trainables.tasks.vit import ViT


def measured(ratio, step, of_loss, of_penalty):
    """Measure a step with gradients of these lengths."""
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([of_loss, 0.0])
    with ratio.measure(step, [weight]):
        weight.grad += torch.tensor([0.0, of_penalty])


def test_start_end_and_max_by_hand():
    ratio = PenaltyRatio()
    ratio.collect()
    assert ratio.describe() == {}
    for step, of_loss, of_penalty in ((0, 4.0, 1.0), (1, 8.0, 16.0), (2, 0.5, 1.0), (4, 2.0, 0.0)):
        measured(ratio, step, of_loss, of_penalty)
    ratio.collect()
    found = ratio.describe()
    assert [found[f"penalty_ratio_{name}"] for name in ("start", "end", "max")] == [0.25, 0.0, 2.0]
    assert ratio.values["max_step"] == 1
    measured(ratio, 8, 1e-3, 10.0)  # the loss has been fitted, so its first gradient counts
    ratio.collect()
    assert ratio.values["end"] == pytest.approx(1e4)
    assert (ratio.values["max"], ratio.values["max_step"]) == (2.5, 8)


@pytest.mark.parametrize(
    ("of_loss", "of_penalty", "expected"),
    [(0.0, 0.0, 0.0), (0.0, 1.0, LARGEST), (1.0, math.inf, LARGEST), (math.nan, 1.0, LARGEST), (1e-30, 1e30, LARGEST)],
)
def test_recorded_ratios_are_finite(of_loss, of_penalty, expected):
    ratio = PenaltyRatio()
    measured(ratio, 0, of_loss, of_penalty)
    ratio.collect()
    assert set(ratio.describe().values()) == {expected}


def test_shares_are_ratios_of_the_means_of_the_first_and_the_latest_eight_steps():
    ratio = PenaltyRatio()
    for step in range(20):  # the loss's gradient is 1 + step, the penalty's 2 at first and 6 later
        measured(ratio, step, 1.0 + step, 2.0 if step < 10 else 6.0)
        ratio.collect()
    found = ratio.describe()
    assert found["penalty_share_start"] == pytest.approx(2.0 / 4.5)  # the mean of 1, ..., 8
    assert found["penalty_share_end"] == pytest.approx(6.0 / 16.5)  # the mean of 13, ..., 20


def test_first_and_last_steps_of_a_phase_and_last_steps_of_epochs_are_measured():
    steps = [step for step in range(120) if is_measured(step, steps_per_epoch=20, max_epochs=3)]
    phase = [*range(9), 16, 19, 32, 39, *range(52, 60)]
    assert steps == phase + [60 + step for step in phase]
    assert all(is_measured(step, steps_per_epoch=3, max_epochs=2) for step in range(12))


@pytest.mark.parametrize("regularizer", ["wcr", "l1", "hoyer_square"])
def test_first_ratio_equals_autograds(tiny, make_task, regularizer):
    config = tiny(regularizer=regularizer, lam=1e-4)
    task = make_task(config)
    training = Training(task, config)
    model = copy.deepcopy(training.model).train()
    batches, served = [], task.batches
    task.batches = lambda *args, **kwargs: [batches.append(b) or b for b in served(*args, **kwargs)]
    training.run_epoch()
    weights = list(task.regularized(model).values())
    of_loss = torch.autograd.grad(task.loss(model, batches[0]), weights)
    of_penalty = torch.autograd.grad(sparsity.load("regularizers", regularizer)(weights)(), weights)
    norms = [math.sqrt(sum(float(g.double().square().sum()) for g in gs)) for gs in (of_penalty, of_loss)]
    assert training.penalty_ratio.values["start"] == pytest.approx(1e-4 * norms[0] / norms[1], rel=1e-3)


def test_nothing_is_measured_without_a_penalty(tiny, make_task):
    for config in (tiny(), tiny(regularizer="wcr", lam=0.0)):
        training = Training(make_task(config), config)
        training.run_epoch()
        assert training.penalty_ratio.describe() == {}
        assert training.penalty_warning() == ""


@pytest.mark.parametrize("regularizer", ["wcr", "l0_hard_concrete"])
@pytest.mark.parametrize("optimizer", ["sgd", "sam", "cram"])
def test_measuring_does_not_change_the_training(tiny, make_task, monkeypatch, optimizer, regularizer):
    config = tiny(optimizer=optimizer, regularizer=regularizer, lam=1e-5, max_epochs=1)

    def trained():
        training = Training(make_task(config), config)
        return training.run_epoch(), training.model.state_dict(), training.penalty_ratio.values

    terms, weights, values = trained()
    monkeypatch.setattr(training_module, "is_measured", lambda *_: False)
    plain_terms, plain_weights, plain_values = trained()
    assert values
    assert not plain_values
    assert terms == plain_terms
    assert all(torch.equal(weights[name], plain_weights[name]) for name in weights)


def test_gates_are_measured_and_never_warn(tiny, make_task):
    config = tiny(regularizer="l0_hard_concrete", lam=10.0, max_epochs=1)
    training = Training(make_task(config), config)
    found = penalized(training.model, training.regularizer)
    assert {id(w) for w in found} == {id(p) for p in training.regularizer.parameters()}
    training.run_epoch()
    assert training.penalty_ratio.values["max"] > PENALTY_RATIO_LIMIT
    assert training.penalty_warning() == ""


def test_resumed_training_continues_with_the_ratios(tiny, make_task):
    config = tiny(regularizer="wcr", lam=1e-5)
    whole = Training(make_task(config), config)
    whole.run_epoch()
    resumed = Training(make_task(config), config)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for training in (whole, resumed):
        training.run_epoch()
    assert resumed.penalty_ratio.values == whole.penalty_ratio.values


def train(task, config):
    training = Training(task, config)
    with contextlib.suppress(ArithmeticError):
        while not training.finished:
            training.run_epoch()
    return training


@pytest.mark.parametrize("space", [cnn, small_cnn])
@pytest.mark.parametrize("regularizer", ["wcr", "l1", "hoyer_square"])
def test_initial_lam_of_cnns_does_not_dominate(tiny, make_task, space, regularizer):
    lam = space.SEARCH_SPACE.initial_points["lam"]["regularizer"][regularizer]
    config = tiny(model={"width": 16, "depth": 2}, regularizer=regularizer, lam=lam, opt={"lr": 0.1}, max_epochs=8)
    training = train(make_task(config), config)
    assert 0 < training.penalty_ratio.values["max"] <= PENALTY_RATIO_LIMIT
    assert training.penalty_warning() == ""


SIZES = {"image_size": 8, "patch_size": 4, "hidden_size": 192, "num_layers": 2, "num_heads": 3, "mlp_size": 768}


@pytest.mark.parametrize("regularizer", ["wcr", "l1", "hoyer_square"])
def test_initial_lam_of_vits_does_not_dominate(tiny, regularizer):
    """With WCR this holds for weights of a fine-tuned network, whose standard deviation is about 0.05.

    WCR's gradient falls with the cube of the standard deviation. The paper fine-tunes with lam 1e-2, which is too large
    for random initial weights of 0.02; the trial then warns.
    """
    config = tiny(
        task="vit",
        architecture="vit",
        model=SIZES,
        opt={"lr": 1e-3},
        max_epochs=4,
        regularizer=regularizer,
        lam=vit.SEARCH_SPACE.initial_points["lam"]["regularizer"][regularizer],
    )
    task = ViT(config, ViT.load(config))
    build = task.build_model

    def larger():
        model = build()
        with torch.no_grad():
            for weight in task.regularized(model).values():
                weight.mul_(0.05 / weight.std())
        return model

    if regularizer == "wcr":
        warning = train(task, config).penalty_warning()
        assert warning.startswith("penalty: its gradient reached ")
        assert " times the loss's at step 0 with lam 0.01, more than 10 times (lower lam, " in warning
    task.build_model = larger
    training = train(task, config)
    assert 0 < training.penalty_ratio.values["max"] <= PENALTY_RATIO_LIMIT
