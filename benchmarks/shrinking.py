"""How much smaller pruned networks become when the channels that their outputs do not depend on are removed."""

import copy
import time

import torch
from torch import nn

import sparsity
from sweeps.digits import SWEEP
from trainables import shrink
from trainables.config import TrialConfig
from trainables.loop import load_task, train
from trainables.pruning import apply_pruning
from trainables.pruning.shrinking import trace

__all__ = ["BENCHMARKS"]

ARMS = {  # regularizer -> lam, lr, weight decay of the best configuration with SGD on docs/methods-on-digits.md
    "none": (0.0, 0.1, 3e-2),
    "wcr": (5.04e-5, 0.182, 0.0395),
    "hoyer_square": (1.32e-4, 0.062, 0.0332),
}
TOLERANCE = 1e-4
SEEDS = (0, 1, 2)
ROWS_LEFT = (0.9, 0.7, 0.5)  # fraction of a ResNet-18 layer's outputs that its mask keeps


def shrunk_digits() -> dict:
    """Digits networks at sparsity 0.96: MACs and parameters left, largest difference of the outputs in float64."""
    torch.set_num_threads(1)
    rows = {}
    for regularizer, (lam, lr, weight_decay) in ARMS.items():
        for seed in SEEDS:
            opt = {"lr": lr, "weight_decay": weight_decay}
            fields = {"optimizer": "sgd", "opt": opt, "regularizer": regularizer, "lam": lam, "seed": seed}
            config = TrialConfig.model_validate(dict(SWEEP.trial) | fields)
            task = load_task(config)
            model, evaluation = train(task, config)
            pruned = apply_pruning(task, model, evaluation, config.target_sparsity)
            acc = evaluation.metrics[config.target_sparsity]["acc"]
            rows[f"sgd + {regularizer}, seed {seed}"] = {"acc": acc, **compare(pruned, torch.randn(64, 1, 8, 8))}
    return {"0.96": rows}


def shrunk_resnet18() -> dict:
    """ResNet-18 at 32x32 with random rows removed in every convolution, and 90% of the weights that remain."""
    torch.set_num_threads(1)
    rows = {}
    for left in ROWS_LEFT:
        torch.manual_seed(0)
        model = sparsity.load("trainables.architectures", "resnet18")(10)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data[torch.rand(len(module.weight)) > left] = 0
                module.weight.data[torch.rand(module.weight.shape) < 0.9] = 0
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.3)
        rows[f"{left:g} of the rows"] = compare(model, torch.randn(8, 3, 32, 32))
    return {"structured masks": rows}


def compare(pruned: nn.Module, inputs: torch.Tensor) -> dict[str, float]:
    """What is left after shrinking, how far the outputs differ in float64, and the CPU seconds that it takes."""
    graph = trace(copy.deepcopy(pruned), inputs[:1])
    exact = shrink(copy.deepcopy(pruned).double(), inputs[:1].double(), graph=graph)
    begin = time.process_time()
    shrunk = shrink(pruned, inputs[:1], graph=graph)
    seconds = time.process_time() - begin
    tolerant = shrink(pruned, inputs[:1], graph=graph, tolerance=TOLERANCE)
    wide = shrink(pruned, inputs[:1], graph=graph, multiple_of=8)
    with torch.no_grad():
        expected = copy.deepcopy(pruned).eval().double()(inputs.double())
        difference = (exact.model(inputs.double()) - expected).abs().max().item()
    return {
        "macs_left": shrunk.after.macs / shrunk.before.macs,
        "parameters_left": shrunk.after.parameters / shrunk.before.parameters,
        "macs_left_by_8": wide.after.macs / wide.before.macs,
        "macs_left_tolerance": tolerant.after.macs / tolerant.before.macs,
        "difference": difference,
        "cpu_s": seconds,
    }


BENCHMARKS = (shrunk_digits, shrunk_resnet18)
