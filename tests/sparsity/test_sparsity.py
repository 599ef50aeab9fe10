"""The contract of every file of every folder: one public object, documented, with its source."""

import importlib
import inspect

import pytest
import torch

import sparsity

KINDS = ["criteria", "optimizers", "regularizers"]
METHODS = [(kind, name) for kind in KINDS for name in sparsity.names(kind)]
WITHOUT_A_SOURCE = {("criteria", "random"), ("regularizers", "none")}  # control arms that no paper owns


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_one_public_object_with_a_docstring_and_its_source(kind, name):
    module = importlib.import_module(f"sparsity.{kind}.{name}")
    assert len(module.__all__) == 1
    public = sparsity.load(kind, name)
    assert public.__module__ == module.__name__
    assert public.__doc__
    if (kind, name) not in WITHOUT_A_SOURCE:
        assert "Source: " in public.__doc__


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_knobs_are_keywords(kind, name):
    parameters = list(inspect.signature(sparsity.load(kind, name)).parameters.values())
    num_positional = {"criteria": 1, "optimizers": 2, "regularizers": 1}[kind]
    kinds = [p.kind for p in parameters]
    assert all(k is inspect.Parameter.POSITIONAL_OR_KEYWORD for k in kinds[:num_positional])
    assert all(k in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD) for k in kinds[num_positional:])


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))


def train(optimizer, regularizer, start, state=None, num_steps=3):
    """From a state (or the beginning), some steps; the state and the weights at the end."""
    net = network()
    R = sparsity.load("regularizers", regularizer)([p for p in net.parameters() if p.dim() > 1])
    trained = [*net.parameters(), *R.parameters()]
    opt = sparsity.load("optimizers", optimizer)(trained, 0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 10)
    if state:
        net.load_state_dict(state["net"])
        R.load_state_dict(state["R"])
        opt.load_state_dict(state["opt"])
        schedule.load_state_dict(state["schedule"])
    for step in range(start, start + num_steps):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

        def closure(x=x):
            opt.zero_grad()
            loss = net(x).square().sum() + 1e-3 * R()
            loss.backward()
            return loss.detach()

        opt.step(closure)
        schedule.step()
    state = {"net": net.state_dict(), "R": R.state_dict(), "opt": opt.state_dict(), "schedule": schedule.state_dict()}
    return state, [p.detach().clone() for p in trained]


@pytest.mark.parametrize("regularizer", sparsity.names("regularizers"))
@pytest.mark.parametrize("optimizer", sparsity.names("optimizers"))
def test_save_load_continue_equals_never_stopping(tmp_path, optimizer, regularizer):
    _, expected = train(optimizer, regularizer, 0, num_steps=6)
    state, _ = train(optimizer, regularizer, 0, num_steps=3)
    torch.save(state, tmp_path / "state.pt")
    _, resumed = train(optimizer, regularizer, 3, torch.load(tmp_path / "state.pt", weights_only=True), num_steps=3)
    assert all(p.isfinite().all() for p in expected)
    assert all(torch.equal(a, b) for a, b in zip(expected, resumed, strict=True))
