"""The contract of every file in sparsity/criteria/."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsity

pytestmark = pytest.mark.parametrize("name", sparsity.names("criteria"))


class Network(nn.Module):
    """A convolution before a BatchNorm, a linear layer, a weight of one element, and a layer of zeros."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3)
        self.wide, self.one, self.zero = nn.Linear(27, 4), nn.Linear(1, 1), nn.Linear(4, 3, bias=False)
        nn.init.zeros_(self.zero.weight)

    def forward(self, images):  # (N, 1, 4, 4) -> (N, 3)
        h = F.relu(self.wide(F.relu(self.norm(self.conv(images))).flatten(1)))
        return h[:, :3] + self.one(h[:, 3:]) + self.zero(h)


def network():
    torch.manual_seed(0)
    net = Network().eval()
    return net, [module.weight for module in (net.conv, net.wide, net.one, net.zero)]


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def ingredients(model, weights):
    """The data of sparsity/criteria/__init__.py, by keyword."""
    batch = (torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3)
    return {
        "generator": torch.Generator().manual_seed(0),
        "gradients": [w.detach().cos() for w in weights],
        "model": model,
        "batch": batch,
        "batches": [(images, labels) for images, labels in zip(*(t.split(3) for t in batch), strict=True)],
        "token_mask": lambda batch: None,
        "loss_fn": loss_fn,
        "forward": lambda model, batch: model(batch[0]),
        "inputs": batch[0],
    }


def keywords(name):
    return [
        p for p in inspect.signature(sparsity.load("criteria", name)).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]


def score(name, model, weights):
    offered = ingredients(model, weights)
    given = {p.name: offered[p.name] for p in keywords(name) if p.name in offered}
    return sparsity.load("criteria", name)(weights, **given)


def check_scores(name, scores, weights):
    assert isinstance(scores, list)
    assert [s.shape for s in scores] == [w.shape for w in weights]
    assert [s.device for s in scores] == [w.device for w in weights]
    assert all(s.isfinite().all() and not s.requires_grad for s in scores)


def test_scores_have_the_weights_shapes_and_no_graph_and_the_model_is_as_it_was(name):
    model, weights = network()
    before = copy.deepcopy(model.state_dict())
    scores = score(name, model, weights)
    check_scores(name, scores, weights)
    for s in scores:
        s.fill_(7)  # new memory
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_scores_do_not_depend_on_the_global_generator(name):
    first = score(name, *network())
    torch.manual_seed(5)
    model, weights = network()
    torch.rand(3)
    state = torch.get_rng_state()
    second = score(name, model, weights)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_tensors_of_any_shape_have_scores(name):
    if "model" in [p.name for p in keywords(name)]:
        pytest.skip("the weights are a model's")
    weights = [torch.randn(s, requires_grad=True) for s in [(3, 4), (2, 3, 2, 2), (1,), ()]] + [torch.zeros(2, 2)]
    check_scores(name, score(name, None, weights), weights)


def test_no_weights_have_no_scores(name):
    model, _ = network()
    assert list(score(name, model, [])) == []


def test_empty_tensors_have_empty_scores(name):
    if "model" in [p.name for p in keywords(name)]:
        pytest.skip("the weights are a model's")
    weights = [torch.ones(0, 5), torch.ones(5, 0), torch.ones(2)]
    check_scores(name, score(name, None, weights), weights)


def test_first_parameter_is_weights_and_the_rest_are_known_data_or_have_a_default(name):
    first, *rest = inspect.signature(sparsity.load("criteria", name)).parameters.values()
    assert first.name == "weights"
    assert all(p.kind is p.KEYWORD_ONLY for p in rest)
    for p in rest:
        assert p.name in ingredients(*network()) or p.default is not p.empty


def test_missing_data_is_named(name):
    needed = [p.name for p in keywords(name) if p.default is p.empty]
    model, weights = network()
    offered = ingredients(model, weights)
    for missing in needed:
        given = {need: offered[need] for need in needed if need != missing}
        for call in (given, {**given, missing: None}):
            with pytest.raises(ValueError, match=rf"^{name}: {', '.join(needed)} must be given, got no {missing}$"):
                sparsity.load("criteria", name)(weights, **call)
    if needed:
        with pytest.raises(ValueError, match=rf"^{name}: .* must be given, got no {', no '.join(needed)}$"):
            sparsity.load("criteria", name)(weights)


def test_refuses_other_weights_training_mode_and_a_batch_that_does_not_fit(name):
    if "model" not in [p.name for p in keywords(name)]:
        pytest.skip("runs no model")
    criterion = sparsity.load("criteria", name)
    model, weights = network()
    offered = ingredients(model, weights)
    given = {p.name: offered[p.name] for p in keywords(name) if p.name in offered}
    with pytest.raises(
        ValueError, match=rf"^{name}: weights must be the model's own parameters \(not copies of them\), got weight 1 "
    ):
        criterion([weights[0], weights[1].detach()], **given)
    wrong = torch.zeros(8, 2, 4, 4)
    wrong_batch = (wrong, torch.arange(8) % 3)
    misfits = {"batch": wrong_batch, "batches": [wrong_batch], "inputs": wrong}
    bad = {key: misfits.get(key, value) for key, value in given.items()}
    with pytest.raises(
        ValueError, match=rf"^{name}: batch must go through the model \(is its shape right\?\), got .+$"
    ):
        criterion(weights, **bad)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model.train()
    with pytest.raises(ValueError, match=rf"^{name}: model must be in evaluation mode .*, got training mode$"):
        criterion(weights, **given)
