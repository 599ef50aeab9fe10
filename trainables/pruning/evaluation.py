"""Score the weights of a trained model, prune copies of it without retraining, and evaluate them."""

import copy
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import sparsity
from sparsity import masks
from trainables.arguments import construct
from trainables.config import TrialConfig
from trainables.prunable import prunable_weights
from trainables.pruning.calibration import gradients_in_parts, num_calibration_examples, parts_in_memory
from trainables.task import Task

__all__ = [
    "Evaluation",
    "add_biases",
    "added_biases",
    "apply_pruning",
    "evaluate_pruned",
    "measure",
    "objectives",
    "recalibrated",
    "score",
]

CALIBRATION_EXAMPLES = 512  # examples that a data-dependent criterion sees
CALIBRATION_PART = 32  # of them go through the network at a time, for a criterion that sums over batches


@dataclass(frozen=True)
class Evaluation:
    """Metrics and masks of a network at several sparsities.

    Attributes:
        metrics: Sparsity -> name of the metric -> value.
        masks: Sparsity -> weight name -> bool tensor, True = kept.
        shifted: Sparsity -> name in the state dict -> tensor that compensates for the removed weights: biases and
            running means of a criterion that compensates, or BatchNorm's statistics after recalibration. The inner
            dictionaries are empty without these.
    """

    metrics: dict[float, dict[str, float]]
    masks: dict[float, dict[str, Tensor]]
    shifted: dict[float, dict[str, Tensor]]

    def __or__(self, other: "Evaluation") -> "Evaluation":
        return Evaluation(self.metrics | other.metrics, self.masks | other.masks, self.shifted | other.shifted)


def score(task: Task, model: nn.Module, config: TrialConfig) -> list[Tensor]:
    """Score the prunable weights with the configuration's criterion; higher scores are kept longer.

    A criterion gets the keywords that its signature asks for (see sparsity/criteria/__init__.py). Its data are the
    first 512 training examples in stored order, without augmentation; for a language model, only as many of them as
    have 2^16 tokens in sum. Gradients are summed over parts that fit in 4 GiB. A criterion that takes all examples at
    once gets only as many as fit in 4 GiB. `batches` holds the examples in batches of 32.

    Args:
        model: In evaluation mode. Some criteria write gradients or hooks; pass a copy if that matters.

    Returns:
        A tensor per prunable weight, of its shape, in the order of `prunable_weights`.
    """
    criterion = sparsity.load("criteria", config.criterion)
    weights = [weight.requires_grad_(True) for weight in prunable_weights(task, model, config).values()]
    parameters = inspect.signature(criterion).parameters
    num = functools.cache(lambda: num_calibration_examples(task, CALIBRATION_EXAMPLES))
    examples = functools.cache(lambda: next(task.batches("train", num())))

    @functools.cache
    def batch() -> Any:
        """The first examples, as many as the criterion can take at once; it may differentiate `loss_fn` twice."""
        return parts_in_memory(task, model, examples(), weights, second_order="loss_fn" in parameters)[0][1]

    def batches() -> Iterator[Any]:
        size = min(CALIBRATION_PART, num())
        return itertools.islice(task.batches("train", size), num() // size)

    available: dict[str, Callable[[], Any]] = {
        "generator": lambda: torch.Generator().manual_seed(config.seed),
        "gradients": lambda: gradients_in_parts(task, model, examples(), weights),
        "model": lambda: model,
        "batch": batch,
        "batches": batches,
        "token_mask": lambda: task.token_mask,
        "loss_fn": lambda: task.loss,
        "forward": lambda: task.forward,
        "inputs": lambda: task.inputs(batch()),
    }
    given = {name: make() for name, make in available.items() if name in parameters}
    return construct("crit", criterion, weights, arguments=config.crit, **given)


def evaluate_pruned(
    task: Task,
    model: nn.Module,
    config: TrialConfig,
    sparsities: Iterable[float],
    split: str,
    removed: Mapping[str, Tensor] = MappingProxyType({}),
) -> Evaluation:
    """Prune a copy of the model at each sparsity, from one ranking, and evaluate it without retraining.

    At sparsity 0 the model is evaluated as it is, whatever the scope.

    Args:
        removed: Weight name -> bool tensor, True = removed before. These weights are zero and rank lowest, whatever
            their scores.
    """
    pruned = copy.deepcopy(model).eval()
    scores = score(task, pruned, config)
    with torch.no_grad():
        for name, values in zip(prunable_weights(task, pruned, config), scores, strict=True):
            if name in removed:
                values.masked_fill_(removed[name], -torch.inf)
    ranking = masks.rank(scores, config.scope, min_kept=config.min_kept)
    dense_weights, pruned_weights = (prunable_weights(task, network, config) for network in (model, pruned))
    evaluation = Evaluation({}, {}, {})
    for level in sparsities:
        cut = ranking.masks(level) if level else [torch.ones_like(s, dtype=torch.bool) for s in scores]
        kept = dict(zip(dense_weights, cut, strict=True))
        with torch.no_grad():
            for name, mask in kept.items():
                pruned_weights[name].copy_(dense_weights[name]).masked_fill_(~mask, 0)
        shifted = {}
        if hasattr(scores, "compensate"):  # the criterion shifts other values to make up for the removed weights
            shifted = scores.state(cut)  # type: ignore[attr-defined]
            scores.compensate(pruned, cut)
        evaluation |= measure(task, pruned, config, split, level, kept, shifted)
    return evaluation


def measure(
    task: Task,
    network: nn.Module,
    config: TrialConfig,
    split: str,
    level: float,
    kept: dict[str, Tensor],
    shifted: Mapping[str, Tensor] = MappingProxyType({}),
) -> Evaluation:
    """Evaluate one pruned network; with `config.recalibrate`, after BatchNorm's statistics are estimated again.

    The dense network, at sparsity 0, keeps its statistics.
    """
    values = dict(shifted)
    if config.recalibrate and level:
        network = recalibrated(task, network, config)
        values |= batchnorm_statistics(network)
    return Evaluation({level: task.evaluate(network, split)}, {level: kept}, {level: values})


def objectives(task: Task, config: TrialConfig, metrics: Mapping[float, Mapping[str, float]]) -> dict[str, float]:
    """`<objective>_dense` and `<objective>_pruned`, from metrics at sparsity 0 and at the target sparsity."""
    name = task.objective
    return {f"{name}_dense": metrics[0.0][name], f"{name}_pruned": metrics[config.target_sparsity][name]}


def recalibrated(task: Task, pruned: nn.Module, config: TrialConfig) -> nn.Module:
    """A copy whose BatchNorm statistics are plain means over one epoch of training batches.

    Pruning shifts every activation, and much of the lost accuracy comes from statistics that no longer fit. No weight
    is trained. A network without BatchNorm stays as it is. Other layers are in evaluation mode, as they will be when
    the statistics are used: dropout is off.
    """
    copied = copy.deepcopy(pruned).eval()
    momenta = {layer: layer.momentum for layer in batchnorm_layers(copied).values()}
    if not momenta:
        return copied
    for layer in momenta:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean
        layer.train()
    with torch.no_grad():
        for batch in task.batches("train", config.batch_size, seed=config.seed):
            copied(task.inputs(batch))
    for layer, momentum in momenta.items():
        layer.momentum = momentum
    return copied.eval()


def batchnorm_statistics(network: nn.Module) -> dict[str, Tensor]:
    """The running statistics of all BatchNorm layers, by their names in the state dict."""
    return {
        f"{name}.{key}".lstrip("."): value
        for name, layer in batchnorm_layers(network).items()
        for key, value in layer.named_buffers(recurse=False)
    }


def batchnorm_layers(network: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    return {
        name: layer for name, layer in network.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    }


def apply_pruning(task: Task, model: nn.Module, evaluation: Evaluation, level: float) -> nn.Module:
    """A copy of the model with the masks and shifted values of `evaluation` at sparsity `level`."""
    pruned = copy.deepcopy(model)
    shifted = evaluation.shifted[level]
    with torch.no_grad():
        for name, mask in evaluation.masks[level].items():
            pruned.get_parameter(name).masked_fill_(~mask, 0)
    add_biases(pruned, added_biases(model, shifted))
    pruned.load_state_dict(shifted, strict=False)
    return pruned


def added_biases(model: nn.Module, shifted: Mapping[str, Tensor]) -> list[str]:
    """The names in `shifted` that the model's state dict lacks: biases of layers that have none."""
    state = model.state_dict()
    return [name for name in shifted if name not in state]


def add_biases(model: nn.Module, names: Iterable[str]) -> None:
    """Give layers a bias of zeros, in place.

    Args:
        names: Of the biases in the state dict, such as "1.conv2.bias".

    Raises:
        ValueError: If a name is not that of a bias, or the layer has one.
    """
    for name in names:
        path, _, attribute = name.rpartition(".")
        layer = model.get_submodule(path)
        weight = layer.get_parameter("weight")
        if attribute != "bias" or layer.bias is not None:
            raise ValueError(f"must name the bias of a layer without one, got {name!r}")
        layer.register_parameter("bias", nn.Parameter(weight.new_zeros(len(weight))))
