"""Numbers that explain a trial's result: its layers and its sharpness."""

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsity.diagnostics import hessian_eigenvalue, layer_statistics
from trainables.config import TrialConfig
from trainables.pruning.calibration import num_calibration_examples, parts_in_memory
from trainables.pruning.evaluation import Evaluation
from trainables.task import Task

__all__ = ["describe_layers", "diagnose"]

HISTOGRAM_BINS = 60
SHARPNESS_BATCH = 1024  # examples


def describe_layers(task: Task, model: nn.Module, kept: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Statistics of each prunable weight and its mask.

    Args:
        kept: Weight name -> bool tensor, True = kept.

    Returns:
        A dictionary per weight: `name`, `shape`, what `sparsity.diagnostics.layer_statistics` returns, and `histogram`,
        the counts of log10|w| in 60 equal bins over [-8, 2]. The bins at the ends count what lies beyond them.
    """
    layers = []
    for name, mask in kept.items():
        weight = model.get_parameter(name)
        magnitudes = weight.detach().double().abs().flatten().cpu()
        counts = torch.histc(magnitudes.clamp(1e-8, 1e2).log10(), HISTOGRAM_BINS, -8, 2)
        statistics = layer_statistics(weight, mask)
        layers.append({"name": name, "shape": list(weight.shape), **statistics, "histogram": counts.int().tolist()})
    return layers


def diagnose(task: Task, model: nn.Module, config: TrialConfig, evaluation: Evaluation) -> dict[str, float]:
    """How much pruning costs, and how sharp the minimum is.

    Returns:
        `loss_gap`: the loss after pruning at the target sparsity minus the dense loss, on the evaluated split.
        `sharpness`, if `config.num_sharpness_batches` > 0: the largest eigenvalue of the Hessian of the training loss
        in all trained parameters, averaged over that many batches of 1024 examples without augmentation. For a language
        model, a batch is as many examples as have 2^16 tokens, if these are fewer. A batch whose graph takes more than
        4 GiB is computed in parts, which takes about three times as long.

    Reference: the WCR paper measures sharpness on 12 batches with 20 power iterations.
    """
    dense, pruned = (evaluation.metrics[level]["loss"] for level in (0.0, config.target_sparsity))
    found = {"loss_gap": pruned - dense}
    if config.num_sharpness_batches:
        model = copy.deepcopy(model).eval()
        num = num_calibration_examples(task, SHARPNESS_BATCH)
        batches = itertools.islice(task.batches("train", num), config.num_sharpness_batches)
        parameters = [p for p in model.parameters() if p.requires_grad]
        generator = torch.Generator(task.device).manual_seed(config.seed)
        found["sharpness"] = hessian_eigenvalue(
            lambda batch: task.loss(model, batch),
            parameters,
            batches,
            parts=lambda batch: parts_in_memory(task, model, batch, parameters, second_order=True),
            generator=generator,
        )
    return found
