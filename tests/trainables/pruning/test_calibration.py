"""Calibration in parts, against autograd on all examples at once."""

import copy

import pytest
import torch

from tests.trainables._tiny_tasks import make_tiny_task, tiny_config
from trainables.memory_estimate import saved_sizes
from trainables.prunable import prunable_weights
from trainables.pruning import calibration, diagnose, evaluate_pruned, score
from trainables.pruning.calibration import gradients_in_parts, num_calibration_examples, parts_in_memory

ARCHITECTURES = ("small_resnet", "unet", "causal_lm")


def network(architecture):
    """The task, a network in evaluation mode, and its prunable weights."""
    config = tiny_config(architecture)
    task = make_tiny_task(config)
    torch.manual_seed(0)
    model = task.deployed(task.build_model()).eval()
    return task, model, [w.requires_grad_(True) for w in prunable_weights(task, model, config).values()]


def scores_of(task, model, architecture, criterion):
    return score(task, copy.deepcopy(model), tiny_config(architecture, criterion=criterion))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_in_parts_are_those_at_once_and_take_little_memory(monkeypatch, architecture):
    task, model, weights = network(architecture)
    batch = next(task.batches("train", 512))
    at_once = torch.autograd.grad(task.loss(model, batch), weights)
    for found, expected in zip(gradients_in_parts(task, model, batch, weights), at_once, strict=True):
        assert torch.equal(found, expected)  # a small batch is one part

    saved, loss = [], task.loss
    whole = sum(saved_sizes(model, lambda: loss(model, batch)))
    monkeypatch.setattr(calibration, "MAX_BYTES", whole / 5)
    parts = parts_in_memory(task, model, batch, weights)
    for _, part in parts:
        saved.append(sum(saved_sizes(model, lambda part=part: loss(model, part))))
    assert 5 <= len(parts) <= 16
    assert max(saved) <= whole / 4  # what does not grow with the examples comes on top
    for found, expected in zip(gradients_in_parts(task, model, batch, weights), at_once, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("criterion", ["snip", "gradient_magnitude"])
def test_scores_in_parts_are_those_at_once(monkeypatch, criterion):
    task, model, _ = network("causal_lm")
    at_once = scores_of(task, model, "causal_lm", criterion)
    monkeypatch.setattr(calibration, "MAX_BYTES", 2**20)
    for found, expected in zip(scores_of(task, model, "causal_lm", criterion), at_once, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("criterion", ["grasp", "compensation"])
def test_a_criterion_that_takes_all_examples_at_once_gets_fewer(monkeypatch, criterion):
    task, model, _ = network("small_resnet")
    seen, forward, loss = [], task.forward, task.loss
    task.forward = lambda model, batch: seen.append(len(batch[0])) or forward(model, batch)
    task.loss = lambda model, batch: seen.append(len(batch[0])) or loss(model, batch)
    scores_of(task, model, "small_resnet", criterion)
    assert seen[-1] == 16
    monkeypatch.setattr(calibration, "MAX_BYTES", 2**16)
    scores = scores_of(task, model, "small_resnet", criterion)
    assert 1 <= seen[-1] < 16
    assert all(s.isfinite().all() for s in scores)


def test_the_second_order_graph_is_measured_as_a_whole(monkeypatch):
    task, model, weights = network("small_resnet")
    batch = next(task.batches("train", 16))
    monkeypatch.setattr(calibration, "MAX_BYTES", 2**16)
    first, second = (len(parts_in_memory(task, model, batch, weights, second_order=order)) for order in (False, True))
    assert first < second


def test_sharpness_in_parts_is_that_at_once(monkeypatch):
    config = tiny_config("small_resnet", num_sharpness_batches=2)
    task, model, _ = network("small_resnet")
    evaluation = evaluate_pruned(task, model, config, (0.0, 0.5), "validation")
    at_once = diagnose(task, model, config, evaluation)["sharpness"]
    monkeypatch.setattr(calibration, "MAX_BYTES", 2**16)
    losses, loss = [], task.loss
    task.loss = lambda model, batch: losses.append(len(batch[0])) or loss(model, batch)
    assert diagnose(task, model, config, evaluation)["sharpness"] == pytest.approx(at_once, rel=1e-4)
    assert max(losses) < 16


def test_a_language_model_has_a_budget_of_tokens(monkeypatch):
    task, model, _ = network("causal_lm")
    lengths = next(task.batches("train", 16)).lengths
    assert num_calibration_examples(task, 512) == 512  # all of them: far below the budget
    monkeypatch.setattr(calibration, "MAX_TOKENS", int(lengths[:5].sum()))
    assert num_calibration_examples(task, 512) == 5
    seen, forward = [], task.forward
    task.forward = lambda model, batch: seen.append(batch.lengths.tolist()) or forward(model, batch)
    scores_of(task, model, "causal_lm", "wanda")
    assert seen == [lengths[:5].tolist()]
    monkeypatch.setattr(calibration, "MAX_TOKENS", 1)
    assert num_calibration_examples(task, 512) == 1
    images, _, _ = network("small_resnet")
    assert num_calibration_examples(images, 512) == 512
