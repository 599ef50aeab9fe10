import copy
import json
import math
import shutil
import socket

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from torch import nn

import sparsity
import trainables
from trainables.architectures.vit import VisionTransformer
from trainables.loop import Training, train
from trainables.pruning import evaluate_pruned, save_pruned
from trainables.tasks.cnn import CNN
from trainables.tasks.vit import ViT

SIZES = {"image_size": 8, "patch_size": 4, "hidden_size": 12, "num_layers": 2, "num_heads": 3, "mlp_size": 20}
# Weights of one block, by hand: query, key, value and projection are 12 x 12, the FFN's two layers 12 x 20.
COUNTS = {"q": 144, "qk": 2 * 144, "qkv": 3 * 144, "all": 4 * 144 + 2 * 240}


@pytest.fixture(scope="module")
def tiny_vit(tiny):
    """A function that builds the configuration of a tiny Vision Transformer on digits from the fields that differ."""
    fields = {"task": "vit", "architecture": "vit", "model": SIZES, "scope": "uniform", "opt": {"lr": 0.05}}
    return lambda **more: tiny(**{**fields, **more})


@pytest.fixture(scope="module")
def data(tiny_vit):
    return ViT.load(tiny_vit(train_size=None))


@pytest.fixture(scope="module")
def make_vit(data):
    return lambda config: ViT(config, data)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder that `save_pretrained` wrote: a ViT for grey images, in bfloat16, with a classifier of 7 classes."""
    torch.manual_seed(5)
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        num_labels=7,
    )
    folder = tmp_path_factory.mktemp("checkpoint")
    transformers.ViTForImageClassification(config).to(torch.bfloat16).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4], "image_std": [0.2]}))
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


# ---- what is pruned, what is regularized -------------------------------------------------------------------------


@pytest.mark.parametrize("prune", COUNTS)
def test_prunable_weights_as_counted_by_hand(tiny_vit, make_vit, prune):
    task = make_vit(tiny_vit(task_args={"prune": prune}))
    model = task.build_model()
    prunable = task.prunable(model)
    assert sum(weight.numel() for weight in prunable.values()) == 2 * COUNTS[prune]
    state = model.state_dict(keep_vars=True)
    assert all(state[name] is weight for name, weight in prunable.items())
    if prune == "all":
        assert set(prunable) == {n for n, p in state.items() if p.ndim == 2 and not n.startswith("classifier")}
        assert task.prunable(make_vit(tiny_vit()).build_model()).keys() == prunable.keys()  # the default


def test_prunable_weights_are_chosen_by_module_not_by_name(tiny_vit, make_vit):
    task = make_vit(tiny_vit(task_args={"prune": "qk"}))
    model = task.build_model()
    before = list(task.prunable(model).values())
    model.vit.layers = torch.nn.ModuleDict({f"q_proj_{i}": layer for i, layer in enumerate(model.vit.layers)})
    renamed = task.prunable(model)
    assert all(a is b for a, b in zip(renamed.values(), before, strict=True))
    assert not any(name.startswith("vit.layers.0") for name in renamed)


def test_qk_leaves_everything_else_dense(tiny_vit, make_vit, tmp_path):
    config = tiny_vit(task_args={"prune": "qk"}, target_sparsity=0.9, sparsities=())
    task = make_vit(config)
    model = task.build_model()
    evaluation = evaluate_pruned(task, model, config, config.levels, "validation")
    save_pruned(tmp_path / "pruned", task, model, evaluation.masks[0.9], {})
    dense = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name, array in load_file(tmp_path / "pruned" / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            assert (array == 0).sum() == round(0.9 * 144)  # in each tensor: uniform
        else:
            np.testing.assert_array_equal(array, dense[name])


def test_the_weights_of_layers_are_regularized(tiny_vit, make_vit):
    """Linear layers and the patch convolution, without class token and position embeddings."""
    task = make_vit(tiny_vit())
    model = task.build_model()
    regularized = task.regularized(model)
    by_hand = 12 * 1 * 4 * 4 + 2 * COUNTS["all"] + 12 * 10
    assert sum(weight.numel() for weight in regularized.values()) == by_hand
    assert all(model.get_parameter(name) is weight for name, weight in regularized.items())
    others = {name for name, p in model.named_parameters() if p.ndim > 1} - set(regularized)
    assert others == {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}


def test_a_weight_of_two_layers_is_regularized_once(tiny_vit, make_vit):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert list(make_vit(tiny_vit()).regularized(net)) == ["0.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune": "kv"}, "task_args: prune must be one of all, qkv, qk, q, got 'kv'"),
        ({"prune": 1}, "task_args: prune must be one of all, qkv, qk, q, got 1"),
        ({"prne": "q"}, "task_args: arguments of ViTSettings must be among prune, got 'prne'"),
    ],
)
def test_refuses_unknown_settings(tiny_vit, make_vit, arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_vit(tiny_vit(task_args=arguments))


def test_refuses_a_network_that_is_not_a_transformer(tiny_vit, make_vit):
    config = tiny_vit(architecture="small_resnet", model={"width": 4, "depth": 1})
    with pytest.raises(ValueError, match=r"^vit: architecture must be a Vision Transformer, .*, got small_resnet$"):
        make_vit(config).build_model()


# ---- training ----------------------------------------------------------------------------------------------------


def test_learns_and_survives_some_pruning(tiny_vit, make_vit):
    config = tiny_vit(
        model={**SIZES, "hidden_size": 24},
        train_size=None,
        optimizer="adamw",
        opt={"lr": 0.01},
        lr_schedule="one_cycle",
        max_epochs=10,
    )
    _, evaluation = train(make_vit(config), config)
    assert evaluation.metrics[0.0]["acc"] > 0.85  # chance is 0.1
    assert evaluation.metrics[0.5]["acc"] > 0.8


@pytest.mark.parametrize(
    "methods",
    [
        {"optimizer": "sam", "opt": {"lr": 0.05, "rho": 0.05}, "regularizer": "wcr", "lam": 1e-6},
        {"optimizer": "s2sam", "opt": {"lr": 0.05, "rho": 0.05}, "regularizer": "l1", "lam": 1e-5},
        {"optimizer": "cram", "opt": {"lr": 0.05, "rho": 0.05}, "regularizer": "hoyer_square", "lam": 1e-5},
        {"optimizer": "adamw", "opt": {"lr": 1e-3}, "regularizer": "l0_hard_concrete", "lam": 1e-4},
        {"optimizer": "sfw", "opt": {"lr": 1.0}, "regularizer": "concave_mask", "lam": 1e-4},
    ],
)
def test_resumed_equals_never_stopped(tiny_vit, make_vit, methods):
    config = tiny_vit(model={**SIZES, "dropout": 0.1}, **methods)
    whole, first = Training(make_vit(config), config), Training(make_vit(config), config)
    terms = [whole.run_epoch() for _ in range(3)]
    first.run_epoch()
    resumed = Training(make_vit(config), config)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [resumed.run_epoch() for _ in range(2)] == terms[1:]
    assert all(math.isfinite(value) for values in terms for value in values.values())
    assert resumed.evaluate(config.levels).metrics == whole.evaluate(config.levels).metrics
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_batches_are_those_of_cnn(tiny_vit, make_vit, data):
    """Batches have the size of the dataset, because the network resizes, and its normalization."""
    config = tiny_vit(model={**SIZES, "image_size": 12})
    task = make_vit(config)
    (images, labels), (same, _) = (next(iter(t.batches("validation", 20))) for t in (task, CNN(tiny_vit(), data)))
    assert images.shape == (20, 1, 8, 8)
    assert torch.equal(images, same)
    assert task.forward(task.build_model(), (images, labels)).shape == (20, 10)


# ---- criteria and diagnostics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", sorted(set(sparsity.names("criteria")) - {"synflow"}))
def test_criteria_remove_the_exact_count(tiny_vit, make_vit, criterion, tmp_path):
    """Includes the second derivatives of grasp and the shifted biases of compensation; checkpoints load again."""
    config = tiny_vit(criterion=criterion)
    task = make_vit(config)
    model = task.build_model()
    evaluation = evaluate_pruned(task, model, config, (0.0, 0.5), "validation")
    assert evaluation.metrics[0.0] == task.evaluate(model, "validation")
    for mask in evaluation.masks[0.5].values():
        assert int((~mask).sum()) == mask.numel() // 2
    save_pruned(tmp_path / "p", task, model, evaluation.masks[0.5], {}, shifted=evaluation.shifted[0.5])
    assert task.evaluate(trainables.load_pruned(tmp_path / "p"), "validation") == evaluation.metrics[0.5]


def test_compensation_reduces_the_change_of_the_outputs(tiny_vit, make_vit):
    """On its calibration batch, with and without its shifts."""
    config = tiny_vit(criterion="compensation", scope="global")
    task = make_vit(config)
    model = task.build_model()
    evaluation = evaluate_pruned(task, model, config, (0.1,), "validation")
    images, _ = next(task.batches("train", 512))
    distances = []
    for shifted in ({}, evaluation.shifted[0.1]):
        pruned = copy.deepcopy(model)
        pruned.load_state_dict({**model.state_dict(), **shifted})
        with torch.no_grad():
            for name, weight in task.prunable(pruned).items():
                weight *= evaluation.masks[0.1][name]
            distances.append((pruned(images) - model(images)).square().mean().item())
    assert distances[1] < distances[0]


def test_synflow_is_refused(tiny_vit, make_vit):
    with pytest.raises(ValueError, match=r"^criterion: must not be synflow with vit \(.*\), got synflow$"):
        make_vit(tiny_vit(criterion="synflow"))


def test_second_derivatives_match_differences_of_the_gradient(tiny_vit, make_vit):
    """The Hessian times a direction, which sharpness needs, against central differences in float64."""
    task = make_vit(tiny_vit())
    model = task.build_model().double().eval()
    images, labels = next(task.batches("train", 64))
    parameters = list(model.parameters())
    direction = [torch.randn_like(p) for p in parameters]

    def gradient(**options):
        return torch.autograd.grad(task.loss(model, (images.double(), labels)), parameters, **options)

    def gradient_at(step):
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=step)
        found = gradient()
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=-step)
        return found

    product = torch.autograd.grad(gradient(create_graph=True), parameters, direction)
    expected = [(a - b) / 2e-5 for a, b in zip(gradient_at(1e-5), gradient_at(-1e-5), strict=True)]
    found, expected = (torch.cat([part.flatten() for part in parts]) for parts in (product, expected))
    assert (found - expected).norm() < 1e-3 * expected.norm()


# ---- pretrained encoders -----------------------------------------------------------------------------------------


def test_training_starts_from_the_checkpoint(tiny_vit, checkpoint, no_network):
    config = tiny_vit(model={"pretrained": str(checkpoint), "dropout": 0.1})
    data = ViT.load(config)
    for weight in data.weights.values():
        weight.flags.writeable = False  # as trials share them
    theirs = transformers.ViTForImageClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    task = ViT(config, data)
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = task.build_model()
        heads.append(model.classifier.weight.detach().clone())
        for name, tensor in theirs.vit.state_dict().items():
            assert torch.equal(model.vit.state_dict()[name], tensor)
    assert heads[0].shape == (10, 12)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    pixels = data.images.train_images[data.images.split()[1][:5]] / 16
    batch = next(iter(task.batches("validation", 5)))
    np.testing.assert_allclose(batch[0], (pixels - 0.4) / 0.2, atol=1e-6)  # the checkpoint's mean and std
    with torch.no_grad():
        expected = theirs.vit(batch[0]).last_hidden_state
        torch.testing.assert_close(model.eval().vit(batch[0]).last_hidden_state, expected)
    before = {name: weight.copy() for name, weight in data.weights.items()}
    Training(task, config).run_epoch()
    for name, weight in data.weights.items():
        np.testing.assert_array_equal(weight, before[name])


def test_a_pruned_network_loads_without_internet_or_checkpoint(tiny_vit, checkpoint, tmp_path, no_network):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    config = tiny_vit(model={"pretrained": str(folder)}, max_epochs=1)
    task = ViT(config, ViT.load(config))
    model, evaluation = train(task, config)
    save_pruned(tmp_path / "0.5", task, model, evaluation.masks[0.5], {"validation": evaluation.metrics[0.5]})
    shutil.rmtree(folder)
    described = json.loads((tmp_path / "0.5" / "config.json").read_text())
    assert described["model"] == {"num_classes": 10, "in_channels": 1, **SIZES}
    prepare = {"image_size": [8, 8], "divide_by": 16, "mean": [0.4], "std": [0.2], "layout": "NCHW"}
    assert described["input"] == prepare
    loaded = trainables.load_pruned(tmp_path / "0.5")
    assert isinstance(loaded, VisionTransformer)
    assert task.evaluate(loaded, "validation") == described["validation"] == evaluation.metrics[0.5]


def test_random_weights_need_no_internet(tiny_vit, no_network):
    for model in (SIZES, {"pretrained": "", **SIZES}):
        config = tiny_vit(model=model)
        task = ViT(config, ViT.load(config))
        task.build_model()
        assert task.describe_model()["model"] == {"num_classes": 10, "in_channels": 1, **SIZES}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 3}, r"num_layers must be left out with pretrained \(.*\), got 3"),
        ({"pretrained": True}, r"pretrained must be a folder or a name on the Hugging Face hub, got True"),
        ({"pretrained": "/no/such"}, r"pretrained must be a folder or a name .*, got '/no/such': no such folder"),
    ],
)
def test_refuses_arguments_that_the_checkpoint_decides(tiny_vit, checkpoint, arguments, message):
    with pytest.raises(ValueError, match=f"^model: {message}$"):
        ViT.load(tiny_vit(model={"pretrained": str(checkpoint), **arguments}))


def test_refuses_a_checkpoint_for_other_channels(tiny_vit, checkpoint, tmp_path):
    fields = json.loads((checkpoint / "config.json").read_text()) | {"num_channels": 3}
    transformers.ViTModel(transformers.ViTConfig.from_dict(fields)).save_pretrained(tmp_path)
    message = r"^model: pretrained must be for images of 1 channels \(those of digits\), got \S+ for 3$"
    with pytest.raises(ValueError, match=message):
        ViT.load(tiny_vit(model={"pretrained": str(tmp_path)}))
