"""The contract of every file in sparsity/criteria/."""

import inspect

import pytest
import torch

import sparsity

pytestmark = pytest.mark.parametrize("name", sparsity.names("criteria"))


def ingredients(weights):
    """What a caller can offer, by the keyword that a criterion's signature asks for."""
    return {
        "generator": torch.Generator().manual_seed(0),
        "gradients": [w.detach().cos() for w in weights],
    }


def score(name, weights):
    criterion = sparsity.load("criteria", name)
    needs = [p.name for p in inspect.signature(criterion).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if missing := [need for need in needs if need not in ingredients(weights)]:
        pytest.skip(f"needs {missing}: tested beside its own file")
    return criterion(weights, **{need: ingredients(weights)[need] for need in needs})


def test_scores_have_the_weights_shapes_and_no_graph(name):
    weights = [torch.randn(s, requires_grad=True) for s in [(3, 4), (2, 3, 2, 2), (1,), ()]] + [torch.zeros(2, 2)]
    before = [w.detach().clone() for w in weights]
    scores = score(name, weights)
    assert isinstance(scores, list)
    assert [s.shape for s in scores] == [w.shape for w in weights]
    assert [s.device for s in scores] == [w.device for w in weights]
    assert all(s.isfinite().all() and not s.requires_grad for s in scores)
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_first_parameter_is_weights_and_the_rest_are_keywords(name):
    first, *rest = inspect.signature(sparsity.load("criteria", name)).parameters.values()
    assert first.name == "weights"
    assert all(p.kind is p.KEYWORD_ONLY for p in rest)
