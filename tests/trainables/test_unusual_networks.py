"""Networks of a user's own that differ from ours: other layers, other attention, other random numbers."""

import pytest
import torch
from torch import nn

from trainables.architectures.torchvision import torchvision
from trainables.loop import Training, load_task
from trainables.prunable import prunable_weights
from trainables.pruning import diagnose, evaluate_pruned, load_pruned, save_pruned, score
from trainables.weights import dense_parameters, weights_by_name

NETS = """
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.add_layers()
        self.head = nn.Linear(8, num_classes)

    def add_layers(self):
        pass

    def forward(self, x):
        return self.head(self.middle(F.relu(self.stem(x))).mean((2, 3)))


class Normalized(Net):
    def add_layers(self):
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))

    def middle(self, x):
        return self.conv(x)


def computed_alone(num_classes, in_channels):
    conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(in_channels, num_classes, 3))
    return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class NormLinear(nn.Module):
    def __init__(self, num_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(num_channels))

    def forward(self, x):
        return F.linear(x, F.normalize(self.weight, dim=1))


class Scaled(Net):
    def add_layers(self):
        self.norm = nn.LayerNorm([8, 8, 8])
        self.depthwise = nn.Conv2d(8, 8, 1, groups=8)
        self.gamma = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.pos_embed = nn.Parameter(torch.zeros(1, 8, 8, 8))
        self.mixing = NormLinear(8)

    def middle(self, x):
        x = self.norm(x + self.pos_embed)
        return x + self.gamma * self.mixing(self.depthwise(x).movedim(1, 3)).movedim(3, 1)


class Attention(Net):
    def add_layers(self):
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.ffn = nn.Linear(8, 8)

    def middle(self, x):
        tokens = x.flatten(2).mT
        return self.ffn(self.attention(tokens, tokens, tokens, need_weights=False)[0]).mT.unflatten(2, x.shape[2:])


class OnlyInTraining(Net):
    def add_layers(self):
        self.auxiliary = nn.Conv2d(8, 8, 3, padding=1)

    def middle(self, x):
        return x + self.auxiliary(x) if self.training else x


class Recurrent(Net):
    def add_layers(self):
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def middle(self, x):
        return self.lstm(x.flatten(2).mT)[0].mT[..., None]


class DecoderFirst(Net):
    def add_layers(self):
        self.decoder = nn.ConvTranspose2d(8, 8, 3, padding=1)
        self.encoder, self.again = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.encoder.weight = self.again.weight = self.decoder.weight

    def middle(self, x):
        return self.decoder(F.relu(self.again(F.relu(self.encoder(x)))))


class OtherRandomNumbers(Net):
    def add_layers(self):
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.from_numpy(np.random.normal(0, 0.1, (8, 8, 3, 3))))

    def middle(self, x):
        return x if self.training and random.random() < 0.5 else x + F.relu(self.conv(x))
"""


@pytest.fixture
def build(tmp_path, monkeypatch, tiny, make_task):
    """A function: the configuration, the task and a network of NETS."""
    (tmp_path / "unusual_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)

    def build(network, **fields):
        config = tiny(architecture=f"unusual_nets.py:{network}", **{"model": {}, **fields})
        task = load_task(config) if config.task == "vit" else make_task(config)
        torch.manual_seed(0)
        return config, task, task.build_model()

    return build


def test_scales_and_positions_are_no_weights(build):
    _, task, model = build("Scaled")
    weights = {"stem.weight", "depthwise.weight", "mixing.weight", "head.weight"}
    assert model.depthwise.weight.shape == (8, 1, 1, 1)  # a convolution whatever its shape
    assert set(task.regularized(model)) == dict(weights_by_name(model)).keys() == weights
    dense = {name for name, p in model.named_parameters() if p in set(dense_parameters(model))}
    assert dense == {"norm.weight", "norm.bias", "gamma", "pos_embed"}


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_v2_t"])
def test_the_weights_of_networks_of_torchvision_are_those_of_their_layers(name):
    with torch.device("meta"):
        model = torchvision(name, 10)
    layers = {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert {name for name, _ in weights_by_name(model)} == layers


@pytest.mark.parametrize("fields", [{"regularizer": "wcr", "lam": 1e-5}, {"optimizer": "sfw", "opt": {"lr": 1.0}}])
def test_normalization_keeps_its_scale(build, fields):
    """With WCR, constant scales would have a variance of 0, and the gradient of R would explode."""
    config, task, _ = build("Scaled", max_epochs=2, **fields)
    training = Training(task, config)
    for _ in range(2):
        training.run_epoch()
    assert (training.model.norm.weight - 1).abs().max() < 0.5


def test_a_computed_weight_is_not_pruned_in_its_place(build):
    config, task, model = build("Normalized")
    assert list(prunable_weights(task, model, config)) == ["stem.weight"]
    config = config.model_copy(update={"prunable": "original1"})
    assert list(prunable_weights(task, model, config)) == ["conv.parametrizations.weight.original1"]
    config, task, model = build("computed_alone")
    with pytest.raises(ValueError, match=r"--prunable 'weight\$'"):
        prunable_weights(task, model, config)


def test_attention_has_second_derivatives(build):
    """GraSP and the sharpness take them."""
    config, task, model = build("Attention", criterion="grasp", num_sharpness_batches=1)
    assert all(each.isfinite().all() for each in score(task, model.eval(), config))
    evaluation = evaluate_pruned(task, model, config, (0.0, config.target_sparsity), "validation")
    found = diagnose(task, model, config, evaluation)
    assert found["sharpness"] > 0


def test_the_projections_of_attention_are_pruned_and_penalized(build):
    """Query, key and value are 24 x 8 together; output projection and FFN 8 x 8 each."""
    config, task, model = build("Attention", task="vit")
    pruned = prunable_weights(task, model, config)
    assert {name: p.numel() for name, p in pruned.items()} == {
        "attention.out_proj.weight": 64,
        "ffn.weight": 64,
        "attention.in_proj_weight": 192,
    }
    assert pruned.keys() < task.regularized(model).keys()
    evaluation = evaluate_pruned(task, model, config, (0.5,), "validation")
    assert sum(int(mask.sum()) for mask in evaluation.masks[0.5].values()) == 160


@pytest.mark.parametrize("criterion", ["snip", "gradient_magnitude", "grasp"])
def test_a_weight_without_effect_has_the_score_0(build, criterion):
    config, task, model = build("OnlyInTraining", criterion=criterion)
    scores = dict(zip(prunable_weights(task, model, config), score(task, model.eval(), config), strict=True))
    assert scores["auxiliary.weight"].abs().max() == 0
    assert scores["stem.weight"].abs().max() > 0


def test_recurrent_layers_can_have_gates(build):
    config, task, _ = build("Recurrent", regularizer="l0_hard_concrete", lam=1e-6, max_epochs=2)
    training = Training(task, config)
    training.run_epoch()
    first = training.trained_model().lstm.weight_ih_l0
    training.run_epoch()  # the network goes on after the copy
    assert not torch.equal(training.trained_model().lstm.weight_ih_l0, first)


def test_masks_reach_all_names_of_a_tied_weight(build, tmp_path):
    """Its first name belongs to a layer that is not pruned."""
    config, task, model = build("DecoderFirst")
    evaluation = evaluate_pruned(task, model, config, (0.9,), "validation")
    save_pruned(tmp_path / "pruned", task, model, evaluation.masks[0.9], {})
    loaded = load_pruned(tmp_path / "pruned", config.architecture)
    assert loaded.encoder.weight is loaded.again.weight is loaded.decoder.weight
    zeros = int((loaded.encoder.weight == 0).sum() + (loaded.stem.weight == 0).sum())
    assert zeros == round(0.9 * (72 + 576))
    assert task.evaluate(loaded, "validation") == pytest.approx(evaluation.metrics[0.9], rel=1e-6)


def test_random_numbers_of_numpy_and_python_have_the_seed_of_the_configuration(build):
    config, task, _ = build("OtherRandomNumbers", max_epochs=2)
    trained = []
    for _ in range(2):
        training = Training(task, config)
        for _ in range(2):
            training.run_epoch()
        trained.append(training.model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
