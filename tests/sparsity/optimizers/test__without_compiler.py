import json
import subprocess
import sys

import pytest
import torch

import sparsity
from sparsity.optimizers._without_compiler import without_compiler

TRAIN = """
import functools, inspect, json, sys, torch
METHODS = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
{before}
before = [dict(vars(cls)) for cls in (torch.optim.Optimizer, torch.optim.SGD, torch.optim.AdamW)]
import sparsity
weights, imported = {{}}, []
for name in {names!r}:
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = sparsity.load("optimizers", name)([w], lr=0.1)
    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss
    for _ in range(2):
        optimizer.step(closure)
    optimizer.load_state_dict(optimizer.state_dict())
    weights[name] = w.tolist()
    if "torch._dynamo" in sys.modules:
        imported.append(name)
assert before == [dict(vars(cls)) for cls in (torch.optim.Optimizer, torch.optim.SGD, torch.optim.AdamW)]
assert not any(vars(inspect.unwrap(getattr(torch.optim.Optimizer, method))) for method in METHODS)
print(json.dumps([weights, imported]))
"""
# A torch whose wrappers differ: these count calls, and disable the compiler inside.
OTHER_WRAPPERS = """
calls = set()
def counted(method):
    @functools.wraps(method)
    def wrapper(*args, **kwargs):
        calls.add(method.__name__)
        return method(*args, **kwargs)
    return wrapper
for method in METHODS:
    setattr(torch.optim.Optimizer, method, counted(inspect.unwrap(getattr(torch.optim.Optimizer, method))))
torch.optim.SGD.step = counted(inspect.unwrap(torch.optim.SGD.step))
import atexit
atexit.register(lambda: print(sorted(calls)))
"""


def train(names, before=""):
    """The weights after training with each optimizer, and those with which the compiler was imported."""
    code = TRAIN.format(names=names, before=before)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    return *json.loads(shown[0]), *shown[1:]


@pytest.fixture(scope="module")
def trained():
    return train(sparsity.names("optimizers"))


def test_training_neither_imports_the_compiler_nor_changes_torch_optim(trained):
    weights, imported = trained
    assert set(weights) == set(sparsity.names("optimizers"))
    assert imported == []


def test_unknown_wrappers_are_kept_and_called(trained):
    weights, imported, calls = train(["sgd"], before=OTHER_WRAPPERS)
    assert calls == "['add_param_group', 'load_state_dict', 'state_dict', 'step', 'zero_grad']"
    assert weights == {"sgd": trained[0]["sgd"]}
    assert imported == []


def test_without_compiler_returns_the_function_inside_torchs_wrappers():
    def function():
        return 1

    assert without_compiler(torch._disable_dynamo(function)) is function
    assert without_compiler(torch.optim.Optimizer.profile_hook_step(torch._disable_dynamo(function))) is function
    assert without_compiler(function) is function
    other = torch.no_grad()(torch._disable_dynamo(function))
    assert without_compiler(other) is other
    assert without_compiler(len) is len


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_equal_those_of_torchs_own_optimizer(name):
    """Also after torch.optim has wrapped `step` of its class, which it does at the first instance."""
    ends = []
    theirs = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    for cls in (sparsity.load("optimizers", name), theirs, sparsity.load("optimizers", name)):
        w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        arguments = {"momentum": 0.9} if name == "sgd" else {}
        optimizer = cls([w], lr=0.1, weight_decay=0.01, **arguments)
        for _ in range(3):
            optimizer.zero_grad()
            w.square().sum().backward()
            optimizer.step()
        ends.append(w.tolist())
    assert ends[0] == ends[1] == ends[2]


def test_step_hooks_are_called_once():
    torch.optim.SGD([torch.ones(1)], lr=0.1)  # wraps the step of torch's class
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = sparsity.load("optimizers", "sgd")([w], lr=0.1)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    w.grad = torch.ones(3)
    optimizer.step()
    assert called == ["before", "after"]
