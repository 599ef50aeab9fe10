"""Expected values come from the loss of transformers and from autograd."""

import copy
import math

import pytest
import torch

from tests.trainables.tasks.lora._setting import configuration, texts, with_factors
from trainables.tasks._question_batches import IGNORED
from trainables.tasks.lora import LoRA


@pytest.mark.parametrize("on_inputs", [False, True])
@pytest.mark.parametrize("base", ["tiny-qwen2", "tiny-llama"])
def test_the_loss_is_that_of_transformers(make, base, on_inputs):
    task, model = make(model={"base": base}, task_args={"train_on_inputs": on_inputs})
    with_factors(model).eval()
    batch = next(task.batches("train", 24, seed=0))
    tokens = torch.cat([batch.tokens, torch.zeros(24, 1, dtype=torch.long)], 1)
    labels = torch.full_like(tokens, IGNORED)
    mask = torch.zeros_like(tokens)
    for i, (length, count) in enumerate(zip(batch.lengths, batch.num_labels, strict=True)):
        tokens[i, length] = batch.labels[i, count - 1]  # the end of text, which a batch leaves out
        begin = 0 if on_inputs else length + 1 - count
        labels[i, begin : length + 1] = tokens[i, begin : length + 1]
        mask[i, : length + 1] = 1
    expected = model(input_ids=tokens, attention_mask=mask, labels=labels).loss
    assert task.loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_prompts_are_labels_if_asked_for_in_training_batches(folder):
    """Rows, cut ones too, are as without; each position has the next token, and the last one the end of text."""
    args = {"train_on_inputs": True}
    config = configuration(data={"cutoff": 120}, task_args=args)
    data = LoRA.load(config, str(folder))
    with_prompts, without = (LoRA(c, data) for c in (config, config.model_copy(update={"task_args": {}})))
    batch, other = (next(task.batches("train", 40, seed=3)) for task in (with_prompts, without))
    assert torch.equal(batch.tokens, other.tokens)
    assert batch.lengths.max() == 119
    for i, (length, row) in enumerate(zip(batch.lengths, texts(without, other)[0], strict=True)):
        assert batch.labels[i].tolist() == [*row[1:], data.end] + [IGNORED] * (batch.tokens.shape[1] - length)
        assert batch.positions[i, :length].tolist() == list(range(length))


def test_padding_changes_nothing(make):
    task, model = make()
    with_factors(model).eval()
    batch = next(task.batches("train", 16, seed=0))
    together = task.forward(model, batch)
    for i, (_, alone) in enumerate(task.parts(batch, 16)):
        count = int(batch.num_labels[i])
        assert alone.tokens.shape == (1, batch.lengths[i])
        torch.testing.assert_close(task.forward(model, alone)[0, :count], together[i, :count], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("num", "on_inputs"), [(1, False), (3, True), (3, False), (4, False), (16, True), (99, False)])
def test_parts_add_up_to_the_whole_batch(make, num, on_inputs):
    task, model = make(task_args={"dropout": 0.0, "train_on_inputs": on_inputs})
    with_factors(model)
    batch = next(task.batches("train", 16, seed=0))
    parts = task.parts(batch, num)
    assert len(parts) == min(num, 16)
    assert sum(weight for weight, _ in parts) == pytest.approx(1)
    assert sum(part.lengths.sum() for _, part in parts) == batch.lengths.sum()
    trained = [p for p in model.parameters() if p.requires_grad]
    whole = torch.autograd.grad(task.loss(model, batch), trained)
    added = torch.autograd.grad(sum(weight * task.loss(model, part) for weight, part in parts), trained)
    for one, other in zip(whole, added, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_gives_the_same_gradients(make):
    gradients = []
    for on in (False, True):
        task, model = make(task_args={"gradient_checkpointing": on})
        with_factors(model).train()
        torch.manual_seed(5)  # dropout
        task.loss(model, next(task.batches("train", 16, seed=0))).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def test_only_the_factors_are_trained_always_in_float32(make):
    for dtype in ("float32", "bfloat16"):
        task, model = make(task_args={"base_dtype": dtype})
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert len(trained) == 2 * 7 * 2
        assert all("lora_A" in name or "lora_B" in name for name in trained)
        assert {p.dtype for p in trained.values()} == {torch.float32}
        assert {p.dtype for p in model.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
        assert {b.dtype for n, b in model.named_buffers() if "inv_freq" in n} == {torch.float32}
        assert task.regularized(model).keys() == trained.keys()
        task.loss(with_factors(model), next(task.batches("train", 16, seed=0))).backward()
        assert all(p.grad.dtype is torch.float32 and p.grad.abs().max() > 0 for p in trained.values())
        merged = task.deployed(copy.deepcopy(model))
        assert {p.dtype for p in merged.parameters()} == {torch.float32}
        assert math.isfinite(task.evaluate(merged, "validation")["loss"])
