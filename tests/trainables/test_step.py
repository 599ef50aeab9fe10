import copy

import pytest
import torch

import sparsity
from tests.trainables._tiny_tasks import make_tiny_task, tiny_config
from trainables.loop import Training
from trainables.step import batchnorm_frozen, train_step
from trainables.weights import dense_parameters


@pytest.mark.parametrize("optimizer", sparsity.names("optimizers"))
def test_batchnorm_statistics_see_each_batch_once_at_the_unperturbed_weights(tiny, make_task, optimizer):
    """After one step they equal those of one forward pass at the initial weights."""
    config = tiny(optimizer=optimizer, batch_size=128, max_epochs=1)
    task = make_task(config)
    batches, served = [], task.batches
    task.batches = lambda *args, **kwargs: map(lambda batch: batches.append(batch) or batch, served(*args, **kwargs))
    training = Training(task, config)
    once = copy.deepcopy(training.model).train()
    training.run_epoch()
    ((images, _),) = batches
    once(images)
    norm, expected = training.model[1], once[1]
    assert norm.num_batches_tracked == 1
    assert not torch.equal(expected.running_mean, torch.zeros(4))
    for (name, buffer), (_, expected) in zip(training.model.named_buffers(), once.named_buffers(), strict=True):
        assert torch.equal(buffer, expected), name


def test_an_optimizer_with_the_argument_num_steps_gets_the_number_of_steps(tiny, make_task):
    """128 images in batches of 32, three epochs."""
    for given, expected in (({}, 12), ({"num_steps": 5}, 5)):
        config = tiny(optimizer="safe", opt={"lr": 0.05, **given})
        assert Training(make_task(config), config).optimizer.param_groups[0]["num_steps"] == expected
    config = tiny(optimizer="sam")
    assert "num_steps" not in Training(make_task(config), config).optimizer.param_groups[0]


def test_frozen_batchnorm_normalizes_by_the_batch():
    norm = torch.nn.BatchNorm1d(2)
    x = torch.tensor([[0.0, 10.0], [2.0, 30.0]])
    with batchnorm_frozen(norm, when=True):
        y = norm(x)
    torch.testing.assert_close(y, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=1e-4, rtol=0)
    assert norm.running_mean.tolist() == [0, 0]
    assert norm.track_running_stats
    norm(x)
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.1, 2.0]))  # momentum 0.1


def test_frozen_instance_norm_keeps_its_statistics():
    norm = torch.nn.InstanceNorm1d(1, track_running_stats=True)
    x = torch.tensor([[[0.0, 2.0]]])
    with batchnorm_frozen(norm, when=True):
        torch.testing.assert_close(norm(x), torch.tensor([[[-1.0, 1.0]]]), atol=1e-4, rtol=0)
    assert (norm.running_mean.item(), norm.running_var.item()) == (0, 1)
    norm(x)
    assert norm.running_mean.item() == pytest.approx(0.1)  # momentum 0.1


def test_frozen_batchnorm_is_restored_after_an_error():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(KeyError), batchnorm_frozen(model, when=True):
        raise KeyError
    assert [norm.track_running_stats for norm in model] == [True, False]


@pytest.mark.parametrize("num", [2, 3, 32])
def test_step_in_parts_has_the_gradient_of_the_whole_batch(make_task, tiny, num):
    config = tiny()
    task = make_task(config)
    torch.manual_seed(0)
    task.forward = lambda model, batch: model(batch[0])  # stay in float64
    model = task.build_model().double().eval()  # in training mode each part would have its own batch statistics
    images, labels = next(iter(task.batches("train", 32)))
    batch = (images.double(), labels)
    parameters = list(model.parameters())
    regularizer = sparsity.load("regularizers", "wcr")(parameters)
    found = []
    for accumulate in (1, num):
        optimizer = sparsity.load("optimizers", "sgd")(parameters, lr=0.0)
        terms = train_step(
            model, batch, task=task, regularizer=regularizer, lam=1e-6, optimizer=optimizer, accumulate=accumulate
        )
        found.append((terms, [p.grad.clone() for p in parameters]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("regularizer", ["concave_mask", "l0_hard_concrete"])
def test_gates_are_not_decayed(tiny, make_task, regularizer):
    config = tiny(regularizer=regularizer, lam=1e-3, opt={"lr": 0.05, "weight_decay": 0.1})
    training = Training(make_task(config), config)
    *weights, gates = training.optimizer.param_groups
    assert gates["weight_decay"] == 0
    assert gates["lr"] == 0.05
    assert gates["params"] == list(training.regularizer.parameters())
    owned = [p for group in training.optimizer.param_groups for p in group["params"]]
    assert len(owned) == len(set(owned))
    assert set(owned) == set(training.model.parameters())
    decays = {p: group["weight_decay"] for group in weights for p in group["params"]}
    self_decayed = set(training.regularizer.weights) if regularizer == "l0_hard_concrete" else set()
    assert decays == {p: 0.0 if p in self_decayed else 0.1 for p in decays}


@pytest.mark.parametrize("optimizer", ["cram", "sfw", "safe"])
def test_position_embeddings_stay_dense(monkeypatch, optimizer):
    """At sparsity 0.99 and with one entry per vertex, all other tensors are made sparse."""
    arguments = {
        "cram": {"lr": 0.1, "rho": 0.0, "sparsities": 0.99, "plus": False},
        "sfw": {"lr": 10.0, "rescale": "none", "momentum": 0.0, "k_fraction": 1e-9, "min_k": 1},
        "safe": {"lr": 0.1, "rho": 0.0, "sparsity": 0.99, "admm_lam": 1.0},
    }[optimizer]
    config = tiny_config("vit", optimizer=optimizer, opt=arguments)
    task = make_tiny_task(config)
    torch.manual_seed(0)
    training = Training(task, config)
    kept = dict(training.model.named_parameters())
    positions = dense_parameters(training.model)
    assert {name.split(".")[-1] for name, p in kept.items() if p in set(positions)} == {
        "position_embeddings",
        "cls_token",
    }
    before = {p: p.detach().clone() for p in positions}
    seen = []

    def loss(model, batch, original=task.loss):
        seen.append({name: (p == 0).float().mean().item() for name, p in model.named_parameters() if p.ndim > 1})
        return original(model, batch)

    task.loss = loss
    training.run_epoch()
    if optimizer == "cram":  # the second gradient of a step is at the compressed weights
        zeros = seen[1]
    elif optimizer == "sfw":  # each step moves to the vertex
        zeros = {name: (p.detach() == 0).float().mean().item() for name, p in kept.items() if p.ndim > 1}
    else:
        state = training.optimizer.state
        zeros = {
            n: (state[p]["projection"] == 0).float().mean().item() for n, p in kept.items() if "projection" in state[p]
        }
        assert not any("projection" in state[p] for p in positions)
    for name, fraction in zeros.items():
        assert (fraction == 0) if kept[name] in set(positions) else (fraction > 0.5), name
    for p in positions:
        assert not torch.equal(p, before[p])  # but they are trained
        assert p.detach().abs().max() < 10


@pytest.mark.parametrize(
    ("name", "is_position"),
    [
        *[(name, True) for name in ("pos_embed", "vit.embeddings.position_embeddings", "encoder.pos_embedding")],
        *[
            (name, True)
            for name in ("wpe.weight", "decoder.embed_positions.weight", "positional_embedding", "cls_token")
        ],
        *[(name, True) for name in ("embeddings.position_embeddings.weight", "abs_pos_emb", "class_token")],
        *[(name, False) for name in ("layer.pos_ffn.weight", "embed_tokens.weight", "patch_embed.proj.weight")],
        *[(name, False) for name in ("position_embeddings.proj.weight", "composer.weight", "token_embedding.weight")],
    ],
)
def test_names_of_position_embeddings(name, is_position):
    model = torch.nn.Module()
    module = model
    *path, last = name.split(".")
    for part in path:
        module.add_module(part, torch.nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(last, torch.nn.Parameter(torch.zeros(2, 2)))
    assert bool(dense_parameters(model)) is is_position


def test_other_optimizers_have_the_same_groups_as_ever():
    config = tiny_config("vit", optimizer="sam")
    assert len(Training(make_tiny_task(config), config).optimizer.param_groups) == 1
