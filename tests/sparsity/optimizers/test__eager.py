import subprocess
import sys

import pytest
import torch

import sparsity

TRAIN = """
import sys, torch, sparsity
w = torch.nn.Parameter(torch.ones(3))
optimizer = sparsity.load("optimizers", {name!r})([w], lr=0.1)
def closure():
    optimizer.zero_grad()
    loss = w.square().sum()
    loss.backward()
    return loss
for _ in range(2):
    optimizer.step(closure)
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("name", sparsity.names("optimizers"))
def test_no_optimizer_imports_torchs_compiler(name):
    done = subprocess.run([sys.executable, "-c", TRAIN.format(name=name)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_torchs_own_optimizer_made_before_or_after_changes_nothing(name):
    """torch.optim wraps `step` of each class at its first instance."""
    ends = []
    theirs = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    for makes in (sparsity.load("optimizers", name), theirs, sparsity.load("optimizers", name)):
        w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
        arguments = {"momentum": 0.9} if name == "sgd" else {}
        optimizer = makes([w], lr=0.1, weight_decay=0.01, **arguments)
        for _ in range(3):
            optimizer.zero_grad()
            w.square().sum().backward()
            optimizer.step()
        ends.append(w.tolist())
    assert ends[0] == ends[1] == ends[2]


def test_step_hooks_are_called():
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = sparsity.load("optimizers", "sgd")([w], lr=0.1)
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    w.grad = torch.ones(3)
    optimizer.step()
    assert called == ["before", "after"]
