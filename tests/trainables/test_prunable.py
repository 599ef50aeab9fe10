import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sparsity.regularizers.l0_hard_concrete import L0HardConcrete
from trainables.loop import Training
from trainables.network_summary import in_words, summarize_network
from trainables.prunable import prunable_weights
from trainables.pruning import apply_pruning, evaluate_pruned, load_pruned, save_pruned
from trainables.pruning_method import PruningMethod
from trainables.weights import tied_names

NETS = """
from torch import nn
from torch.nn import functional as F


class Tied(nn.Module):
    def __init__(self, num_classes, in_channels=3, *, freeze=False):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.one, self.two = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)
        self.stem.weight.requires_grad_(not freeze)

    def forward(self, x):
        x = F.relu(self.two(F.relu(self.one(F.relu(self.stem(x))))))
        return self.head(self.norm(x).mean((2, 3)))


def mlp(num_classes, in_channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with networks of one's own, which is the working folder."""
    (tmp_path / "tied_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def build(own, tiny, make_task):
    """A function: the configuration, the task and the network of `Tied`."""

    def build(attribute="Tied", **fields):
        config = tiny(architecture=f"tied_nets.py:{attribute}", **{"model": {}, **fields})
        task = make_task(config)
        return config, task, task.build_model()

    return build


def test_a_tied_weight_is_pruned_once_and_everywhere(build, tmp_path):
    config, task, model = build(target_sparsity=0.5)
    assert tied_names(model) == {"two.weight": "one.weight"}
    assert list(prunable_weights(task, model, config)) == ["stem.weight", "one.weight"]
    evaluation = evaluate_pruned(task, model, config, (0.5,), "validation")
    masks = evaluation.masks[0.5]
    num = 72 + 576
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.5 * num)
    save_pruned(tmp_path / "0.5", task, model, masks, {})
    state = load_file(tmp_path / "0.5" / "model.safetensors")
    assert torch.equal(state["one.weight"], state["two.weight"])
    assert int((state["one.weight"] == 0).sum() + (state["stem.weight"] == 0).sum()) == num - round(0.5 * num)
    assert json.loads((tmp_path / "0.5" / "config.json").read_text())["prunable_sparsity"] == 0.5
    loaded = load_pruned(tmp_path / "0.5", config.architecture)
    assert loaded.one.weight is loaded.two.weight
    assert task.evaluate(loaded, "validation") == pytest.approx(evaluation.metrics[0.5], rel=1e-6)
    pruned = apply_pruning(task, model, evaluation, 0.5)
    assert task.evaluate(pruned, "validation") == pytest.approx(evaluation.metrics[0.5], rel=1e-6)


def test_gates_refuse_a_tied_weight(build):
    _, task, model = build()
    with pytest.raises(ValueError, match="weights must each belong to one module of the model"):
        L0HardConcrete(list(task.regularized(model).values())).attach(model)


def test_a_frozen_weight_is_neither_trained_nor_penalized_nor_pruned(build):
    config, task, _ = build(model={"freeze": True}, regularizer="l1", lam=1e-2, max_epochs=1)
    training = Training(task, config)
    before = training.model.stem.weight.clone()
    assert "stem.weight" not in training.gated_names
    assert list(prunable_weights(task, training.model, config)) == ["one.weight"]
    training.run_epoch()
    assert torch.equal(training.model.stem.weight, before)


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "grasp"])
def test_a_frozen_weight_is_pruned_if_it_is_named(build, criterion):
    config, task, model = build(model={"freeze": True}, prunable="stem|head", criterion=criterion)
    evaluation = evaluate_pruned(task, model, config, (0.5,), "validation")
    assert list(evaluation.masks[0.5]) == ["stem.weight", "head.weight"]
    assert not model.stem.weight.requires_grad  # of a copy only


def test_the_expression_must_match_a_weight(build):
    _, task, model = build()
    assert list(prunable_weights(task, model, PruningMethod(prunable=r"^one|head\.weight$"))) == [
        "one.weight",
        "head.weight",
    ]
    message = r"prunable: must match the name of a weight \(among stem.weight, one.weight, head.weight\), got 'bias'"
    with pytest.raises(ValueError, match=message):
        prunable_weights(task, model, PruningMethod(prunable="bias"))
    with pytest.raises(ValueError, match=r"prunable: must be a regular expression, got '\('"):
        PruningMethod(prunable="(")


def test_a_network_without_a_prunable_layer_says_how_to_choose(build):
    config, task, model = build("mlp")
    with pytest.raises(ValueError, match=r"got none in Sequential: choose weights by name, .*--prunable 'weight\$'"):
        prunable_weights(task, model, config)
    assert list(prunable_weights(task, model, PruningMethod(prunable="weight$"))) == ["1.weight"]


def test_the_summary_says_why(build):
    config, task, model = build(model={"freeze": True})
    rows = summarize_network(task, model, config, regularized=list(task.regularized(model)))
    assert {row.name: row.left_out for row in rows} == {
        "stem.weight": "frozen",
        "stem.bias": "bias",
        "one.weight": "",
        "one.bias": "bias",
        "two.weight": "tied to one.weight",
        "two.bias": "bias",
        "norm.weight": "normalization",
        "norm.bias": "normalization",
        "head.weight": "Linear, which the task does not prune",
        "head.bias": "bias",
    }
    assert [row.name for row in rows if row.prunable] == ["one.weight"]
    assert [row.name for row in rows if row.regularized] == ["one.weight", "head.weight"]
    assert sum(row.num for row in rows) == sum(p.numel() for p in model.parameters())
    first, second = in_words(rows, "nets:Tied")
    assert first == "network: nets:Tied, 5 layers, 778 weights; 576 (74.0%) can be pruned, in 1 tensor"
    assert "72 in 1 tensor (frozen)" in second
    assert "1 further name of tied weights" in second
    chosen = summarize_network(task, model, PruningMethod(prunable="head"), regularized=[])
    assert next(row for row in chosen if row.name == "one.weight").left_out == "not matched by --prunable"


def test_another_choice_of_weights_trains_nothing_new(build):
    config, _, _ = build()
    other, _, _ = build(prunable="one")
    assert config.key == other.key
    assert other.label == "magnitude global prunable=one"


def test_a_checkpoint_alone_runs_no_own_code(build, tmp_path):
    config, task, model = build()
    masks = {"one.weight": torch.ones_like(model.one.weight, dtype=torch.bool)}
    save_pruned(tmp_path / "checkpoint", task, model, masks, {})
    with pytest.raises(ValueError, match="architecture must be given") as failure:
        load_pruned(tmp_path / "checkpoint")
    assert f"load_pruned(folder, {config.architecture!r})" in str(failure.value)
    assert isinstance(load_pruned(tmp_path / "checkpoint", type(model)), nn.Module)
