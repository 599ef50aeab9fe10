"""One training step: the gradient of loss + lam * penalty, and the update that an optimizer makes of it."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import sparsity
from trainables.arguments import construct
from trainables.config import TrialConfig
from trainables.task import Task
from trainables.weights import dense_parameters

__all__ = [
    "ContextFactory",
    "batchnorm_frozen",
    "make_optimizer",
    "parameter_groups",
    "train_step",
]

ContextFactory = Callable[[], contextlib.AbstractContextManager[None]]


def train_step(
    model: nn.Module,
    batch: Any,
    *,
    task: Task,
    regularizer: Any,
    lam: float,
    optimizer: Any,
    accumulate: int = 1,
    penalty_context: ContextFactory = contextlib.nullcontext,
) -> tuple[Tensor, Tensor]:
    """Make one update. The optimizer decides how often it needs the gradient of L + lam * R.

    Args:
        accumulate: Number of parts whose losses and gradients are computed one after the other, to save memory.
        penalty_context: Creates the context in which the penalty's first gradient is added (see `PenaltyRatio`).

    Returns:
        The task's loss L and the unscaled penalty R at the first gradient. They are tensors: nothing waits for the
        device.
    """
    terms: list[tuple[Tensor, Tensor]] = []  # L and R of each gradient

    def closure() -> Tensor:
        first = not terms
        optimizer.zero_grad(set_to_none=True)
        with batchnorm_frozen(model, when=not first):
            loss = task_backward(model, batch, task, accumulate)  # .grad = dL/dw
        task.before_penalty(model)
        with penalty_context() if first else contextlib.nullcontext():
            penalty = regularizer.backward(lam)  # .grad += lam * dR/dw
        terms.append((loss, penalty))
        return loss + lam * penalty

    optimizer.step(closure)
    return terms[0]


def task_backward(model: nn.Module, batch: Any, task: Task, num_parts: int) -> Tensor:
    """Add the gradient of the task's loss on a batch to `.grad`, part by part, and return the loss, detached."""
    losses = []
    for weight, part in task.parts(batch, num_parts) if num_parts > 1 else [(1.0, batch)]:
        loss = weight * task.loss(model, part)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


@contextlib.contextmanager
def batchnorm_frozen(model: nn.Module, *, when: bool) -> Iterator[None]:
    """Normalize by the batch's statistics as usual, but leave running statistics alone, also those of InstanceNorm.

    An optimizer that perturbs the weights passes a batch through the network twice, and running statistics should see
    it once, at the unperturbed weights.
    """
    changed: list[tuple[nn.Module, str, Any]] = []  # a layer, the name of an attribute, its value before
    for module in model.modules() if when else ():
        if getattr(module, "track_running_stats", False):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                changed.append((module, "track_running_stats", True))
                module.track_running_stats = False
            elif isinstance(module, nn.modules.instancenorm._InstanceNorm):  # it updates them all the same
                changed.append((module, "momentum", module.momentum))
                module.momentum = 0.0
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def make_optimizer(task: Task, config: TrialConfig, model: nn.Module, regularizer: Any) -> Any:
    """Create the optimizer of a configuration. One with an argument `num_steps` gets the number of steps of a phase."""
    optimizer = sparsity.load("optimizers", config.optimizer)
    given = {}
    if "num_steps" in inspect.signature(optimizer).parameters and "num_steps" not in config.opt:
        given["num_steps"] = config.max_epochs * task.steps_per_epoch(config.batch_size)
    groups = parameter_groups(model, regularizer, config.opt.get("weight_decay", 0.0))
    if getattr(optimizer, "makes_sparse", False):
        groups = dense_apart(groups, dense_parameters(model))
    return construct("opt", optimizer, groups, arguments=config.opt, **given)


def parameter_groups(model: nn.Module, regularizer: Any, weight_decay: Any) -> list[dict[str, Any]]:
    """The optimizer's parameter groups: the model's parameters, and those that need settings of their own.

    Weights that the regularizer decays itself have no decay in the optimizer. Neither have gates, which decay would
    pull towards half open; their learning rate is the regularizer's `gate_lr` if it has one.
    """
    gates = dict.fromkeys(regularizer.parameters())  # once attached, they are parameters of the model too
    taken = dict.fromkeys(regularizer.take_decay(weight_decay) if weight_decay else ())
    trained = [p for p in model.parameters() if p.requires_grad and p not in gates]
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if p not in taken]}]
    if taken:
        groups.append({"params": [p for p in trained if p in taken], "weight_decay": 0.0})
    if gates:
        lr = {} if regularizer.gate_lr is None else {"lr": regularizer.gate_lr}
        groups.append({"params": list(gates), "weight_decay": 0.0, **lr})
    return groups


def dense_apart(groups: list[dict[str, Any]], dense: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Put these parameters into groups of their own, with `dense` = True and the other settings of their group."""
    apart = set(dense)
    found = []
    for group in groups:
        found.append({**group, "params": [p for p in group["params"] if p not in apart]})
        if own := [p for p in group["params"] if p in apart]:
            found.append({**group, "params": own, "dense": True})
    return [group for group in found if group["params"]]
