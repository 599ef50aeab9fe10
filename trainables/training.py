"""The loop: plain PyTorch in a plain Python process. No Ray, no records; what it computes, the configuration decides.

Every epoch draws its random numbers (order, augmentation, dropout, gates) from (seed, epoch) alone, so a run that goes
on from a checkpoint written between two epochs equals one that never stopped, bit for bit on a CPU.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sparsity
from trainables.config import TrialConfig, with_knobs
from trainables.pruning import Evaluation, evaluate_pruned
from trainables.tasks._base import Task

__all__ = ["Diverged", "Training", "load_task", "train"]


class Diverged(ArithmeticError):
    """The loss or a weight stopped being finite: a result of the configuration, not a fault of the program."""


def load_task(config: TrialConfig, *, root: str | None = None, data: Any = None, device: str = "cpu") -> Task:
    """The task that a configuration names, with its data: given, or loaded (from `root`, or its own download)."""
    cls = sparsity.find("trainables.tasks", config.task)
    return cls(config, cls.load(config, root) if data is None else data, device)


def random_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def batchnorm_frozen(model: nn.Module, *, when: bool) -> Iterator[None]:
    """Batch statistics normalize as in training, but the running ones stay: they see each batch once."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    tracking = [m for m in norms if m.track_running_stats] if when else []
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def train_step(model, batch, *, task, regularizer, lam, optimizer) -> tuple[Tensor, Tensor]:
    """One update. The optimizer decides how many gradients it needs; the loop stays the same.

    Returns the task's loss and the unscaled penalty of the first gradient, as tensors: nothing waits for the device.
    """
    terms: list[tuple[Tensor, Tensor]] = []

    def closure():
        optimizer.zero_grad(set_to_none=True)
        with batchnorm_frozen(model, when=bool(terms)):
            task_loss = task.loss(model, batch)
        penalty = regularizer()
        loss = task_loss + lam * penalty
        loss.backward()
        terms.append((task_loss.detach(), penalty.detach()))
        return loss.detach()

    optimizer.step(closure)
    return terms[0]


class Training:
    """One configuration being trained, an epoch at a time; its state is what a checkpoint holds.

    config: a `TrialConfig`. ValueError names the knob that an optimizer, regularizer or network does not take.
    """

    def __init__(self, task: Task, config: TrialConfig):
        self.task, self.config = task, config
        torch.manual_seed(config.seed)
        self.model = task.build_model()
        weights = list(task.regularized(self.model).values())
        regularizer = sparsity.load("regularizers", config.regularizer)
        self.regularizer = with_knobs("reg", regularizer, weights, knobs=config.reg).to(task.device)
        self.regularizer.attach(self.model)
        gates = dict.fromkeys(self.regularizer.parameters())  # once attached, they are the model's parameters too
        groups: list[dict] = [{"params": [p for p in self.model.parameters() if p.requires_grad and p not in gates]}]
        if gates:
            groups.append({"params": list(gates), "weight_decay": 0.0})  # decay would pull a gate's logit to half open
        self.optimizer = with_knobs("opt", sparsity.load("optimizers", config.optimizer), groups, knobs=config.opt)
        self.schedule = with_knobs(
            "sched",
            sparsity.find("trainables.schedules", config.schedule),
            self.optimizer,
            max_epochs=config.max_epochs,
            steps_per_epoch=task.steps_per_epoch(config.batch_size),
            knobs=config.sched,
        )
        self.epoch = 0  # epochs done
        self.seconds = 0.0  # spent in epochs and evaluations, over all sittings

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.max_epochs

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch; returns its mean `loss` (the task's), mean `penalty` (unscaled) and the `lr` it ended with.

        Raises Diverged, naming step, lam, loss and penalty, if the objective or a weight is not finite.
        """
        begin = time.perf_counter()
        seed = random_seed(self.config.seed, self.epoch)
        torch.manual_seed(seed)
        self.model.train()
        steps = []
        for batch in self.task.batches("train", self.config.batch_size, seed=seed):
            terms = train_step(
                self.model,
                batch,
                task=self.task,
                regularizer=self.regularizer,
                lam=self.config.lam,
                optimizer=self.optimizer,
            )
            steps.append(terms)
            self.regularizer.project()
            self.schedule.after_step()
        losses, penalties = (torch.stack(terms).double().cpu() for terms in zip(*steps, strict=True))
        self._check_finite(losses, penalties)
        self.epoch += 1
        self.schedule.after_epoch(losses.mean().item())
        self.seconds += time.perf_counter() - begin
        return {
            "loss": losses.mean().item(),
            "penalty": penalties.mean().item(),
            "lr": self.optimizer.param_groups[0]["lr"],
        }

    def _check_finite(self, losses: Tensor, penalties: Tensor) -> None:
        bad = ~torch.isfinite(losses + self.config.lam * penalties)
        if bad.any():
            step, what = int(bad.nonzero()[0]), ""
        elif not math.isfinite(sum(torch._foreach_norm([p.detach() for p in self.model.parameters()]))):
            step, what = len(losses) - 1, ", after which the weights overflow"
        else:
            return
        raise Diverged(
            f"diverged at step {step + self.epoch * len(losses)} (epoch {self.epoch}): task loss {losses[step]:g}, "
            f"penalty {penalties[step]:g}, lam {self.config.lam:g}{what}"
        )

    def trained_model(self) -> nn.Module:
        """A copy of the model as it stands, in plain weights: gates, if any, are folded into them."""
        model = copy.deepcopy(self.model)
        self.regularizer.fold(model)
        return model

    def evaluate(self, sparsities: tuple[float, ...], split: str = "validation") -> Evaluation:
        """A copy of the model, pruned at each level and evaluated; the training model is not touched."""
        begin = time.perf_counter()
        evaluation = evaluate_pruned(self.task, self.trained_model(), self.config, sparsities, split)
        self.seconds += time.perf_counter() - begin
        return evaluation

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "regularizer": self.regularizer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "config": self.config.model_dump(mode="json"),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()` of a training of the same configuration; ValueError if it is of another one."""
        if state["config"] != self.config.model_dump(mode="json"):
            raise ValueError("checkpoint: must be of the same configuration, got one of another")
        self.model.load_state_dict(state["model"])
        self.regularizer.load_state_dict(state["regularizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]


def train(
    task: Task, config: TrialConfig | Mapping[str, Any], *, report: Callable[[dict], None] | None = None
) -> tuple[nn.Module, Evaluation]:
    """Train a configuration to its end in this process and prune once at each of its levels.

    report: called after each epoch with {"epoch", "loss", "penalty", "lr"}. Returns the dense model and the evaluation
    of its pruned copies on the validation split. Raises Diverged where the loss does.
    """
    training = Training(task, config if isinstance(config, TrialConfig) else TrialConfig.model_validate(config))
    while not training.finished:
        terms = training.run_epoch()
        if report:
            report({"epoch": training.epoch, **terms})
    return training.trained_model(), training.evaluate(training.config.levels)
