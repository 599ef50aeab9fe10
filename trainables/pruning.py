"""One-shot pruning of a trained model: score, mask, evaluate at each level, keep as a checkpoint, load again."""

import copy
import functools
import inspect
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sparsity
from sparsity import masks
from sparsity.diagnostics import hessian_eigenvalue, layer_statistics
from trainables.config import TrialConfig, construct
from trainables.errors import one_line
from trainables.task import Task

__all__ = ["Evaluation", "evaluate_pruned", "load_pruned", "save_pruned"]

CALIBRATION_BATCH = 512
HISTOGRAM_BINS = 60
SHARPNESS_BATCH = 1024


@dataclass(frozen=True)
class Evaluation:
    """What is left at each sparsity: the task's metrics by level, and the pruned models' masks."""

    metrics: dict[float, dict[str, float]]  # sparsity -> metric -> value
    masks: dict[float, dict[str, Tensor]]  # sparsity -> weight name -> bool, True = kept
    shifted: dict[float, dict[str, Tensor]]  # sparsity -> name in the state dict -> value that makes up for the removed


def score(task: Task, model: nn.Module, config: TrialConfig) -> list[Tensor]:
    """The criterion's scores of the prunable weights of a model in evaluation mode.

    A criterion gets what its keywords ask for (see sparsity/criteria/__init__.py). Data is one fixed batch of the
    training split, unaugmented.
    """
    criterion = sparsity.load("criteria", config.criterion)
    weights = list(task.prunable(model).values())
    batch = functools.cache(lambda: next(iter(task.batches("train", CALIBRATION_BATCH))))
    givers: dict[str, Callable[[], Any]] = {
        "generator": lambda: torch.Generator().manual_seed(config.seed),
        "gradients": lambda: torch.autograd.grad(task.loss(model, batch()), weights),
        "model": lambda: model,
        "batch": batch,
        "loss_fn": lambda: task.loss,
        "forward": lambda: task.forward,
        "inputs": lambda: task.inputs(batch()),
    }
    asked = inspect.signature(criterion).parameters
    given = {name: give() for name, give in givers.items() if name in asked}
    return construct("crit", criterion, weights, arguments=config.crit, **given)


def recalibrated(task: Task, pruned: nn.Module, config: TrialConfig) -> nn.Module:
    """A copy whose BatchNorm statistics are estimated anew, as plain means over one epoch of training batches.

    Without pruning's shift of every activation undone like this, much of what pruning costs is statistics that no
    longer fit. The papers prune without it, so both are recorded.
    """
    copied = copy.deepcopy(pruned)
    batches = task.batches("train", config.batch_size, seed=config.seed)
    torch.optim.swa_utils.update_bn((task.inputs(batch) for batch in batches), copied)
    return copied


def measure(task: Task, pruned: nn.Module, config: TrialConfig, split: str) -> dict[str, float]:
    """The task's metrics of a pruned network. With `recalibrate`, each comes a second time, with `_recalibrated` behind
    its name: what the same weights give after their BatchNorm statistics are estimated anew."""
    metrics = task.evaluate(pruned, split)
    if config.recalibrate:
        again = task.evaluate(recalibrated(task, pruned, config), split)
        metrics |= {f"{name}_recalibrated": value for name, value in again.items() if name != "collapsed"}
    return metrics


def evaluate_pruned(
    task: Task, model: nn.Module, config: TrialConfig, sparsities: tuple[float, ...], split: str
) -> Evaluation:
    """Prune a copy at each level, from one ranking, and evaluate it, without retraining.

    Level 0 is the model as it is, whatever the scope.
    """
    pruned = copy.deepcopy(model).eval()
    scores = score(task, pruned, config)
    ranking = masks.rank(scores, config.scope, min_kept=config.min_kept)
    dense, targets = task.prunable(model), task.prunable(pruned)
    metrics: dict[float, dict[str, float]] = {}
    kept: dict[float, dict[str, Tensor]] = {}
    shifted: dict[float, dict[str, Tensor]] = {}
    for level in sparsities:
        cut = ranking.masks(level) if level else [torch.ones_like(s, dtype=torch.bool) for s in scores]
        kept[level] = dict(zip(dense, cut, strict=True))
        with torch.no_grad():
            for name, mask in kept[level].items():
                targets[name].copy_(dense[name]).masked_fill_(~mask, 0)
        shifted[level] = {}
        if hasattr(scores, "compensate"):  # of a criterion that makes up for what is removed, in other values
            shifted[level] = scores.state(cut)  # type: ignore[attr-defined]
            scores.compensate(pruned, cut)
        metrics[level] = measure(task, pruned, config, split)
    return Evaluation(metrics, kept, shifted)


def apply_pruning(task: Task, model: nn.Module, evaluation: Evaluation, level: float) -> nn.Module:
    """A copy of the model as it was evaluated at `level`."""
    pruned = copy.deepcopy(model)
    shifted = evaluation.shifted[level]
    with torch.no_grad():
        for name, weight in task.prunable(pruned).items():
            weight.masked_fill_(~evaluation.masks[level][name], 0)
    add_biases(pruned, added_biases(model, shifted))
    pruned.load_state_dict(shifted, strict=False)
    return pruned


def added_biases(model: nn.Module, shifted: Mapping[str, Tensor]) -> list[str]:
    """The entries of `shifted` that the model's state dict lacks: biases of layers that have none."""
    state = model.state_dict()
    return [name for name in shifted if name not in state]


def add_biases(model: nn.Module, names: Iterable[str]) -> None:
    """Give layers a bias of zeros, in place. names: of the biases in the state dict, such as "1.conv2.bias"."""
    for name in names:
        path, _, attribute = name.rpartition(".")
        layer = model.get_submodule(path)
        weight = layer.get_parameter("weight")
        if attribute != "bias" or layer.bias is not None:
            raise ValueError(f"must name the bias of a layer without one, got {name!r}")
        layer.register_parameter("bias", nn.Parameter(weight.new_zeros(len(weight))))


def describe_layers(task: Task, model: nn.Module, kept: Mapping[str, Tensor]) -> list[dict]:
    """Per prunable weight: its name and shape, `sparsity.diagnostics.layer_statistics` of it and its mask, and a
    histogram that counts log10|w| in 60 equal bins over [-8, 2], what lies outside at the ends."""
    layers = []
    for name, weight in task.prunable(model).items():
        magnitudes = weight.detach().double().abs().flatten().cpu()
        counts = torch.histc(magnitudes.clamp(1e-8, 1e2).log10(), HISTOGRAM_BINS, -8, 2)
        statistics = layer_statistics(weight, kept[name])
        layers.append({"name": name, "shape": list(weight.shape), **statistics, "histogram": counts.int().tolist()})
    return layers


def diagnose(task: Task, model: nn.Module, config: TrialConfig, evaluation: Evaluation) -> dict[str, float]:
    """loss_gap: the loss after pruning at the target sparsity less the dense one, of the split that was evaluated.
    sharpness, where `num_sharpness_batches` says so: the largest eigenvalue of the Hessian of the training loss in all
    trained parameters, mean over so many batches of 1024 unaugmented images (WCR paper: 12, 20 iterations)."""
    dense, pruned = (evaluation.metrics[level]["loss"] for level in (0.0, config.target_sparsity))
    found = {"loss_gap": pruned - dense}
    if config.num_sharpness_batches:
        model = copy.deepcopy(model).eval()
        batches = itertools.islice(task.batches("train", SHARPNESS_BATCH), config.num_sharpness_batches)
        parameters = [p for p in model.parameters() if p.requires_grad]
        generator = torch.Generator(task.device).manual_seed(config.seed)
        found["sharpness"] = hessian_eigenvalue(
            lambda batch: task.loss(model, batch), parameters, list(batches), generator=generator
        )
    return found


def save_pruned(
    folder: Path,
    task: Task,
    model: nn.Module,
    kept: Mapping[str, Tensor],
    description: Mapping[str, Any],
    *,
    shifted: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write the pruned model as `model.safetensors` and `config.json`, whole or not at all.

    kept, shifted: of one level of an `Evaluation`.
    config.json holds what `load_pruned` needs, `description`, and the zeros as counted in what was written:
    `prunable_sparsity` over the prunable weights, `model_sparsity` over all parameters. `added_biases` names those
    that the architecture does not have: a layer without a bias gets one to hold its shift.
    """
    added = added_biases(model, shifted)
    state = {**model.state_dict(), **shifted}
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    for name, mask in kept.items():
        state[name].masked_fill_(~mask.cpu(), 0)
    parameters = [state[name] for name in (*(name for name, _ in model.named_parameters()), *added)]
    config = {
        **task.describe_model(),
        **description,
        "added_biases": added,
        "prunable": list(kept),
        "prunable_sparsity": masks.sparsity_of([state[name] for name in kept]),
        "model_sparsity": masks.sparsity_of(parameters),
    }
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process that had this one's number
    try:
        partial.mkdir(parents=True)
        save_file(state, partial / "model.safetensors")
        (partial / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_pruned(folder: str | Path) -> nn.Module:
    """The pruned model in `folder` (model.safetensors + config.json) as a plain PyTorch module in evaluation mode.

    Zeros are zeros in its weights: no hooks, no masks. config.json's `input` says how images are to be prepared. Layers
    listed under `added_biases` have a bias that the architecture does not give them.
    Nothing is unpickled. FileNotFoundError where a file is missing, ValueError, one line, where one is damaged or they
    do not belong together.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        architecture, arguments = config["architecture"], dict(config["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: config.json must be JSON with architecture and model, got {one_line(error)}"
        ) from error
    model = construct(f"{folder}: model", sparsity.find("trainables.architectures", architecture), arguments=arguments)
    try:
        add_biases(model, config.get("added_biases", ()))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: added_biases in config.json must be biases that {architecture} lacks, got {one_line(error)}"
        ) from error
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: model.safetensors must hold the weights of {architecture} {arguments}, got {one_line(error)}"
        ) from error
    return model.eval()
