"""What a pruned network costs where it is used: file sizes, and latency in PyTorch and in ONNX Runtime."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparsity
from sweeps.digits import SWEEP
from trainables import load_pruned
from trainables.config import TrialConfig
from trainables.loop import load_task
from trainables.malloc import keep_freed_memory
from trainables.pruning import read_description
from trainables.pruning.exporting import costs, deployable
from trainables.pruning.exporting.deployable import Deployable
from trainables.pruning.shrinking import shrink
from trainables.runner import TrialRunner

__all__ = ["BENCHMARKS"]

DIGITS = {"optimizer": "sgd", "opt": {"lr": 0.1, "weight_decay": 3e-2}, "regularizer": "hoyer_square", "lam": 1e-4}
IMAGES = {"image_size": [32, 32], "divide_by": 255, "mean": [0.5] * 3, "std": [0.25] * 3}
SECONDS = 15.0  # for the runs of each network, batch size and engine; 200 runs where they fit
CHANNELS_REMOVED = 0.35  # of the channels between the two convolutions of each block of ResNet-18


def exports() -> dict:
    """Dense, pruned and shrunk networks: parameters, bytes, and latency of one thread."""
    keep_freed_memory()
    return {"digits, small ResNet at 0.96": rows(digits()), "ResNet-18, 32 x 32": rows(resnet18())}


def rows(networks: dict[str, Deployable]) -> dict[str, Any]:
    """Measure networks, with the shrunk ones: with any number of channels, and with multiples of 8."""
    pruned = networks["pruned"]
    for width in (1, 8):
        smaller = shrink(pruned.network, pruned.prepare(pruned.example(2)), multiple_of=width)
        made = copy.deepcopy(pruned)
        made.network = smaller.model
        networks["shrunk" if width == 1 else f"shrunk to multiples of {width}"] = made
    measured = costs(networks, seconds=SECONDS)
    return {row.pop("network"): {key: value for key, value in row.items() if key != "num_runs"} for row in measured}


def digits() -> dict[str, Deployable]:
    """The network of sweeps/digits.py, trained with Hoyer-square and pruned at 0.96."""
    torch.set_num_threads(1)
    config = TrialConfig.model_validate(dict(SWEEP.trial) | DIGITS)
    with tempfile.TemporaryDirectory() as folder:
        runner = TrialRunner(config, Path(folder), lambda: load_task(config))
        while (report := runner.advance())["status"] == "running":
            pass
        assert report["status"] == "finished", report
        kept = {"dense": Path(folder) / "trained", "pruned": Path(folder) / "pruned" / "0.96"}
        prepare = read_description(kept["pruned"])["input"]
        return {name: deployable(load_pruned(path), prepare) for name, path in kept.items()}


def resnet18() -> dict[str, Deployable]:
    """Random weights, of which whole channels are removed inside each block and 0.9 of the rest one by one."""
    torch.manual_seed(0)
    dense = sparsity.load("trainables.architectures", "resnet18")(10)
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        for module in pruned.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.weight.mul_(torch.rand_like(module.weight) < 0.1)
            if hasattr(module, "bn1") and hasattr(module, "conv2"):  # a block
                removed = torch.rand(module.conv2.in_channels) < CHANNELS_REMOVED
                module.conv2.weight[:, removed] = 0
    return {name: deployable(network, IMAGES) for name, network in (("dense", dense), ("pruned", pruned))}


BENCHMARKS = (exports,)
