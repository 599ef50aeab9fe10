"""Expected values come from the formula of LoRA and from autograd."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import sparsity
from sparsity.regularizers.wcr import WCR
from tests.trainables.tasks.lora._setting import PROJECTIONS, with_factors
from trainables.loop import Training, train_step
from trainables.tasks._adapters import find_projections
from trainables.tasks._question_batches import IGNORED


@pytest.mark.parametrize("base", ["tiny-qwen2", "tiny-llama"])
def test_deployed_is_w0_plus_scale_b_a_in_a_plain_network(make, base):
    task, model = make(model={"base": base})
    with_factors(model).eval()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    merged = task.deployed(copy.deepcopy(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert type(merged).__name__ in ("Qwen2ForCausalLM", "LlamaForCausalLM")
    prunable = task.prunable(merged)
    names = [f"model.layers.{i}.{part}" for i in range(2) for part in ("self_attn", "mlp")]
    assert {name.rsplit(".", 2)[0] for name in prunable} == set(names)
    assert [name.split(".")[-2] for name in prunable] == PROJECTIONS * 2
    parameters = dict(merged.named_parameters())
    for name, weight in prunable.items():
        assert weight is parameters[name]
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        A, B = (before[f"{layer}.lora_{factor}.default.weight"].double() for factor in "AB")
        expected = before[f"{layer}.base_layer.weight"].double() + 8 / 4 * B @ A
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-6)
    batch = next(task.batches("train", 16))
    torch.testing.assert_close(task.forward(merged, batch), task.forward(model, batch), rtol=1e-4, atol=1e-4)
    assert task.prunable(model).keys() == prunable.keys()  # the same before merging


def test_the_penalty_of_merged_weights_follows_the_chain_rule(make):
    """Against autograd through W0 + 2 B A, at two successive steps, and in parts."""
    task, model = make(task_args={"regularize": "merged", "dropout": 0.0}, regularizer="wcr", lam=1e-3)
    with_factors(model)
    regularizer = WCR(task.regularized(model).values())
    layers = list(find_projections(model, task.settings.names).values())
    batch = next(task.batches("train", 16, seed=0))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    for accumulate in (1, 1, 4):
        A, B = ([getattr(layer, f"lora_{f}")["default"].weight.detach().clone() for layer in layers] for f in "AB")
        factors = [tensor.requires_grad_() for tensor in (*A, *B)]
        merged = [layer.base_layer.weight + 2 * b @ a for layer, a, b in zip(layers, A, B, strict=True)]
        penalty = sum(1 / (w.square().add(1e-8).sqrt().var(correction=0) + 1e-8) for w in merged)
        penalty_gradients = torch.autograd.grad(penalty, factors)
        loss_gradients = torch.autograd.grad(task.loss(model, batch), trained)
        expected = dict(zip([id(layer.lora_A["default"].weight) for layer in layers], penalty_gradients, strict=False))
        expected |= dict(
            zip([id(layer.lora_B["default"].weight) for layer in layers], penalty_gradients[len(layers) :], strict=True)
        )
        _, found = train_step(
            model, batch, task=task, regularizer=regularizer, lam=1e-3, optimizer=optimizer, accumulate=accumulate
        )
        assert found.item() == pytest.approx(penalty.item(), rel=1e-5)
        for parameter, of_loss in zip(trained, loss_gradients, strict=True):
            whole = of_loss + 1e-3 * expected[id(parameter)]
            torch.testing.assert_close(parameter.grad, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "regularize"),
    [
        *[(optimizer, "factors") for optimizer in ("adamw", "sam", "s2sam", "friendly_sam", "cram")],
        *[(optimizer, "merged") for optimizer in ("sam", "s2sam", "friendly_sam")],
    ],
)
def test_works_with_the_sam_family(make, optimizer, regularize):
    base = {} if optimizer == "adamw" else {"base": "adamw", "rho": 0.05}
    task, _ = make(
        task_args={"regularize": regularize},
        optimizer=optimizer,
        opt=base,
        regularizer="wcr",
        reg={"eps": 1e-4},
        lam=1e-6,
        accumulate=2,
        train_size=32,
    )
    training = Training(task, task.config)
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    terms = training.run_epoch()
    assert terms["loss"] > 0
    assert terms["penalty"] > 0
    for name, parameter in training.model.named_parameters():
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name


@pytest.mark.parametrize("optimizer", ["sam", "friendly_sam"])
@pytest.mark.parametrize("regularize", ["factors", "merged"])
def test_a_sam_step_perturbs_the_factors_as_by_hand(make, optimizer, regularize):
    """Against autograd through W0 + 2 B A in the plain network. The first step of Friendly-SAM is SAM's."""
    task, model = make(task_args={"regularize": regularize, "dropout": 0.0}, regularizer="wcr", lam=1e-3)
    with_factors(model)
    batch = next(task.batches("train", 16, seed=0))
    layers = find_projections(model, task.settings.names)
    plain = task.deployed(copy.deepcopy(model)).eval()
    factors = [getattr(layer, f"lora_{f}")["default"].weight for f in "AB" for layer in layers.values()]

    def objective(values):
        A, B = values[: len(layers)], values[len(layers) :]
        merged = {
            f"{name}.weight": layer.base_layer.weight + 2 * b @ a
            for (name, layer), a, b in zip(layers.items(), A, B, strict=True)
        }
        logits = torch.func.functional_call(plain, merged, (batch.tokens,)).logits
        chosen = logits.gather(1, batch.positions[..., None].expand(-1, -1, logits.shape[-1]))
        loss = F.cross_entropy(chosen.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
        penalized = merged.values() if regularize == "merged" else values
        return loss + 1e-3 * sum(1 / (w.square().add(1e-8).sqrt().var(correction=0) + 1e-4) for w in penalized)

    start = [factor.detach().clone().requires_grad_() for factor in factors]
    g = torch.autograd.grad(objective(start), start)
    norm = math.sqrt(sum(x.square().sum().item() for x in g))
    perturbed = [(w.detach() + 0.05 * x / norm).requires_grad_() for w, x in zip(start, g, strict=True)]
    assert objective(perturbed) > objective(start) * 1.001  # it ascends
    expected = [w - 0.1 * x for w, x in zip(start, torch.autograd.grad(objective(perturbed), perturbed), strict=True)]

    regularizer = WCR(task.regularized(model).values(), eps=1e-4)
    sam = sparsity.load("optimizers", optimizer)(factors, lr=0.1, rho=0.05, momentum=0.0)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    train_step(model, batch, task=task, regularizer=regularizer, lam=1e-3, optimizer=sam)
    for found, by_hand in zip(factors, expected, strict=True):
        torch.testing.assert_close(found.detach(), by_hand.detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_gates_go_on_the_factors_and_are_folded_before_merging(make):
    task, _ = make(regularizer="l0_hard_concrete", lam=1e-4, train_size=32, eval_size=10)
    training = Training(task, task.config)
    training.run_epoch()
    merged = training.trained_model()
    assert not any("parametrizations" in name for name, _ in merged.named_parameters())
    assert math.isfinite(task.evaluate(merged, "validation")["loss"])
