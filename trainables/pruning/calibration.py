"""Training examples for data-dependent measures: how many, and in parts that fit in memory."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.memory_estimate import saved_sizes
from trainables.task import Task

__all__ = ["gradients_in_parts", "num_calibration_examples", "parts_in_memory"]

MAX_TOKENS = 2**16  # of a batch of a language model, without padding
MAX_BYTES = 2**32  # of tensors that autograd keeps at once


def num_calibration_examples(task: Task, num_examples: int) -> int:
    """The number of training examples to use of the first `num_examples` ones in stored order.

    A language model uses as many of them as have `MAX_TOKENS` tokens in sum, but at least one. Other tasks use all.
    """
    if task.token_mask(next(task.batches("train", 1))) is None:
        return num_examples
    mask = task.token_mask(next(task.batches("train", num_examples)))
    assert mask is not None
    fits = mask.sum(1).cumsum(0) <= MAX_TOKENS
    return num_examples if fits.all() else max(1, int(fits.sum()))


def parts_in_memory(
    task: Task, model: nn.Module, batch: Any, weights: Sequence[Tensor], *, second_order: bool = False
) -> list[tuple[float, Any]]:
    """Split a batch, so that the graph of the loss on a part takes about `MAX_BYTES` at most.

    The memory that each element of the inputs takes is measured on a few examples. The weights do not count.

    Args:
        weights: The weights that the loss is differentiated in.
        second_order: Whether the graph includes that of the gradient, to differentiate twice.

    Returns:
        The parts with their weights (see `Task.parts`); the batch alone if it fits.
    """
    inputs = task.inputs(batch)
    num_bytes = inputs.numel() * bytes_per_element(task, model, weights, second_order)
    if num_bytes <= MAX_BYTES:
        return [(1.0, batch)]
    num_fitting = max(1, int(len(inputs) * MAX_BYTES / num_bytes))
    return task.parts(batch, math.ceil(len(inputs) / num_fitting))


def gradients_in_parts(task: Task, model: nn.Module, batch: Any, weights: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of the task's loss on a batch, summed over parts that fit in memory."""
    total: list[Tensor] = []
    for weight, part in parts_in_memory(task, model, batch, weights):
        gradients = list(torch.autograd.grad(weight * task.loss(model, part), weights, materialize_grads=True))
        total = list(torch._foreach_add(total, gradients)) if total else gradients
    return total


def bytes_per_element(task: Task, model: nn.Module, weights: Sequence[Tensor], second_order: bool) -> float:
    """Bytes that autograd keeps for each further element of the inputs, from two and four examples."""

    def build(batch: Any) -> None:
        loss = task.loss(model, batch)
        if second_order:
            torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)

    found = []
    for num in (2, 4):
        batch = next(task.batches("train", num))
        found.append((task.inputs(batch).numel(), sum(saved_sizes(model, functools.partial(build, batch)))))
    (few, of_few), (more, of_more) = found
    return max(0, of_more - of_few) / max(1, more - few)
