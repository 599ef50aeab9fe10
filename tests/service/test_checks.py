"""Own code that does not fit is answered before Ray starts, in one line."""

import sys

import pytest

from service.checks import check
from service.inspection import find_sweep, network_table
from service.views.console import make_console
from tests.service._sweeps import make

CODE = """
import numpy as np
import torch
from torch import nn

from sparsity.regularizer import Regularizer
from trainables.datasets.digits import digits


def good(num_classes, in_channels=3):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(144, num_classes))


def raises(num_classes, in_channels=3):
    return {}["missing"]


def no_arguments():
    return None


def no_module(num_classes, in_channels=3):
    return 3


def complex_weights(num_classes, in_channels=3):
    return nn.Conv2d(in_channels, 4, 3, dtype=torch.complex64)


def wrong_shape(num_classes, in_channels=3):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.Linear(99, num_classes))


class Dictionary(nn.Module):
    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.net = good(num_classes, in_channels)

    def forward(self, x):
        return {"logits": self.net(x)}


class Depends(nn.Module):
    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.net = good(num_classes, in_channels)

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(-x)


def mlp(num_classes, in_channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))


def no_images(root=None):
    return [1, 2, 3]


def no_root():
    return digits()


def float_images(root=None):
    import dataclasses
    data = digits()
    return dataclasses.replace(data, train_images=data.train_images.astype(np.float32))


class NoPenalty(Regularizer): ...


class Vector(Regularizer):
    def penalty(self, weight):
        return weight.abs().sum(0)

    def forward(self):
        return self.penalty(self.weights[0])


class NoRegularizer:
    def __init__(self, weights): ...


class Raises(Regularizer):
    def penalty(self, weight):
        return weight.no_such_method()


class Sgd(torch.optim.SGD):
    def __init__(self, params, lr=0.1, *, momentum=0.9, weight_decay=0.0):
        super().__init__(params, lr, momentum=momentum, weight_decay=weight_decay)

    def step(self):
        super().step()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def sweep(own, **fields):
    fields = {"optimizer": ("sgd",), "regularizer": ("none",), "architecture": "faulty.py:good", **fields}
    return make(runs=own / "runs", **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architecture": "faulty.py:raises"},
            r"^faulty.py, line 15: must run on an example .* got KeyError: 'missing'",
        ),
        (
            {"architecture": "faulty.py:no_arguments"},
            r"^model: no_arguments must take num_classes, got no_arguments\(\)",
        ),
        ({"architecture": "faulty.py:no_module"}, "must return a torch.nn.Module, got int"),
        ({"architecture": "faulty.py:complex_weights"}, "got complex64 in weight"),
        (
            {"architecture": "faulty.py:wrong_shape"},
            "faulty:wrong_shape must take .* 2 x 1 x 8 x 8 and got RuntimeError",
        ),
        ({"architecture": "faulty.py:Dictionary"}, "got a dict with logits: return one of its tensors"),
        ({"architecture": "faulty.py:mlp"}, r"there must be a weight that the task CNN prunes"),
        ({"architecture": "faulty.py:good", "prunable": "nothing"}, "prunable: must match the name of a weight"),
        ({"model": {"depth": 3}}, r"model: arguments of good must be among \(none\), got 'depth'"),
        (
            {"architecture": "faulty.py:Depends", "max_macs_left": 0.5},
            r"^max_macs_left: must be left out for faulty:Depends \(its operations after shrinking cannot be counted\)",
        ),
        ({"dataset": "faulty.py:no_images"}, "dataset: must be one of labelled images .*got list of"),
        ({"dataset": "faulty.py:no_root"}, r"data: arguments must be what no_root takes"),
        ({"dataset": "faulty.py:float_images"}, r"train_images must be uint8 \(N, C, H, W\), got float32"),
        ({"regularizer": ("faulty.py:NoRegularizer",)}, "must be a class that derives from sparsity.regularizer"),
        ({"regularizer": ("faulty.py:NoPenalty",), "lam": 0.1}, "must define penalty"),
        ({"regularizer": ("faulty.py:Vector",), "lam": 0.1}, r"must return a scalar tensor, got shape \(4,\)"),
        ({"regularizer": ("faulty.py:Raises",), "lam": 0.1}, r"^faulty.py, line \d+: must run .*AttributeError"),
        (
            {"optimizer": ("faulty.py:Sgd",)},
            r"must have step\(closure\), got TypeError: Sgd.step\(\) takes 1 positional argument",
        ),
        (
            {"architecture": "faulty.py:good", "min_kept": 30},
            r"^min_kept: must leave 35 of 36 weights to remove at sparsity 0.96, got 30 in each of 1 tensors, which "
            "leaves 6",
        ),
        ({"architecture": "timm/resnet999"}, "timm/resnet999: must be a network of timm, such as"),
        ({"architecture": "timm"}, "name must be timm/NAME"),
        ({"architecture": "timm/vit_tiny_patch16_224"}, "tried 2 x 1 x 8 x 8 and got AssertionError: Input height"),
    ],
)
def test_faults_are_one_line(own, fields, message):
    with pytest.raises(ValueError, match=message) as failure:
        check(sweep(own, **fields))
    assert "\n" not in str(failure.value)


def test_a_database_that_cannot_be_opened_is_found_before_anything_is_recorded(own):
    with pytest.raises(ValueError, match=r"study_uri: must be a database that can be opened, got nodialect://x"):
        check(sweep(own, study_uri="nodialect://x"))


def test_a_configuration_made_before_a_change_is_refused(own):
    made = sweep(own)
    (own / "faulty.py").write_text(CODE + "# changed\n")
    with pytest.raises(ValueError, match="faulty:good: must be the code that the configuration was made with"):
        check(made)


def test_inspect_lists_every_weight_and_writes_nothing(own):
    checked = check(sweep(own), writes=False)
    console = make_console()
    with console.capture() as capture:
        console.print(network_table(checked.network))
    assert "Linear, which the task does not prune" in capture.get()
    assert [w.name for w in checked.network] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert not (own / "runs").exists()


def test_a_sweep_is_found_by_name_or_file(own):
    assert find_sweep("digits").trial.dataset == "digits"
    with pytest.raises(ValueError, match=r"inspect: .*faulty.py must have a Sweep\(...\) as a variable"):
        find_sweep("faulty.py")
