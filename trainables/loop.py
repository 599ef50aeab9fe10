"""The training loop in plain PyTorch. What it computes is determined by the configuration alone.

Every epoch draws its random numbers (order, augmentation, dropout, gates) from (seed, epoch). A training that continues
from a checkpoint written between two epochs therefore equals one that never stopped, bit for bit on a CPU.
"""

import contextlib
import copy
import functools
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sparsity
from sparsity.import_strings import short_name
from trainables.arguments import construct
from trainables.config import TrialConfig
from trainables.early_stopping import EarlyStopping
from trainables.lottery import Lottery, weights_left
from trainables.network_checks import check_network
from trainables.penalty_ratio import PenaltyRatio, is_measured, penalized
from trainables.prunable import prunable_weights
from trainables.pruning.evaluation import Evaluation, evaluate_pruned, measure, objectives, score
from trainables.step import ContextFactory, make_optimizer, train_step
from trainables.task import Task

__all__ = ["Diverged", "Training", "load_task", "train"]


class Diverged(ArithmeticError):
    """The loss or a weight is no longer finite: a result of the configuration, not a fault of the program."""


def load_task(config: TrialConfig, *, root: str | None = None, data: Any = None, device: str = "cpu") -> Task:
    """Create the task that a configuration names.

    Args:
        root: The dataset's folder; None for datasets that are downloaded or generated.
        data: What the task class's `load` returned, so that it is not loaded again.
    """
    cls = sparsity.load("trainables.tasks", config.task)
    return cls(config, cls.load(config, root) if data is None else data, device)


def train(
    task: Task, config: TrialConfig | Mapping[str, Any], *, report: Callable[[dict[str, Any]], None] | None = None
) -> tuple[nn.Module, Evaluation]:
    """Train a network in this process, and prune it at each sparsity of the configuration.

    Args:
        report: Called after each epoch with a dictionary of `epoch`, `loss`, `penalty` and `lr`.

    Returns:
        The dense model, and the evaluation of the pruned ones on the validation split.

    Raises:
        Diverged: If the loss or a weight becomes infinite or NaN.
        ValueError: If an optimizer, regularizer, network or schedule does not take its arguments.
    """
    training = Training(task, config if isinstance(config, TrialConfig) else TrialConfig.model_validate(config))
    while not training.finished:
        training.train_to_evaluation(evaluate=False, report=report)
    return training.networks((0.0,))[0.0], training.evaluate(training.config.levels)


class Training:
    """The training of one configuration, with everything that a checkpoint holds.

    A pruning schedule may train the network several times. Each such training is a phase of `max_epochs` epochs.
    Between two phases, weights are removed, and the others are rewound to their values at an early epoch. A ticket is
    the network of a phase that is kept for a sparsity of the configuration.

    Raises:
        ValueError: If an optimizer, regularizer, network or schedule does not take its arguments.

    Attributes:
        epoch: Completed epochs, over all phases of the pruning schedule.
        seconds: Time spent in epochs and evaluations, also before the training was resumed.
        gated_names: Names of the tensors in `regularizer.weights`.
    """

    def __init__(self, task: Task, config: TrialConfig):
        self.task, self.config = task, config
        self.epoch = 0
        self.seconds = 0.0
        self.lottery = Lottery(config)
        self.early_stopping = EarlyStopping(config.patience)
        self.penalty_ratio = PenaltyRatio()
        self._begin_phase()

    @property
    def phase(self) -> int:
        """The phase that the next epoch belongs to; the last one after the end."""
        return min(self.epoch // self.config.max_epochs, self.lottery.num_phases - 1)

    @property
    def lam(self) -> float:
        """The penalty's factor in this phase."""
        return self.config.lam if self.lottery.schedule.regularized(self.phase) else 0.0

    @property
    def evaluation_epochs(self) -> list[int]:
        """Epochs, counted over all phases, that end with an evaluation and a checkpoint."""
        starts = [phase * self.config.max_epochs for phase in range(self.lottery.num_phases)]
        return [start + epoch for start in starts for epoch in self.config.evaluation_epochs]

    @property
    def finished(self) -> bool:
        return self.early_stopping.stopped or self.epoch >= self.lottery.num_phases * self.config.max_epochs

    def train_to_evaluation(
        self, *, evaluate: bool = True, report: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Train to the next evaluation.

        Args:
            evaluate: Whether to evaluate the network there, dense and pruned at the target sparsity. The last epoch has
                none, because the caller then evaluates at all sparsities. Early stopping always evaluates.
            report: Called after each epoch with a dictionary of `epoch`, `loss`, `penalty` and `lr`.

        Returns:
            A dictionary: what `run_epoch` returned for the last epoch; after an evaluation, `<objective>_dense` and
            `<objective>_pruned` on the validation split; with several phases, `weights_left`.

        Raises:
            Diverged: If the loss or a weight becomes infinite or NaN.
        """
        target = next(epoch for epoch in self.evaluation_epochs if epoch > self.epoch)
        terms: dict[str, Any] = {}
        while self.epoch < target:
            terms = self.run_epoch()
            if report:
                report({"epoch": self.epoch, **terms})
        if self.config.patience is not None or (evaluate and target < self.evaluation_epochs[-1]):
            metrics = self.evaluate((0.0, self.config.target_sparsity)).metrics
            terms |= objectives(self.task, self.config, metrics)
            self._update_early_stopping(terms[f"{self.task.objective}_dense"])
        if self.lottery.num_phases > 1:
            terms["weights_left"] = weights_left(self.lottery.masks)
        self.end_phase()
        return terms

    def run_epoch(self) -> dict[str, Any]:
        """Train one epoch.

        Returns:
            The means of the task's `loss` and of the unscaled `penalty`, and the final `lr`.

        Raises:
            Diverged: If the loss or a weight becomes infinite or NaN.
        """
        begin = time.perf_counter()
        seed = epoch_seed(self.config.seed, self.epoch)
        seed_all(seed)
        self.model.train()
        steps = []
        first_step = self.epoch * self.task.steps_per_epoch(self.config.batch_size)
        for step, batch in enumerate(self.task.batches("train", self.config.batch_size, seed=seed), first_step):
            terms = train_step(
                self.model,
                batch,
                task=self.task,
                regularizer=self.regularizer,
                lam=self.lam,
                optimizer=self.optimizer,
                accumulate=self.config.accumulate,
                penalty_context=self._penalty_context(step),
            )
            steps.append(terms)
            self.regularizer.project()
            self.lr_schedule.after_step()
        losses, penalties = (torch.stack(terms).double().cpu() for terms in zip(*steps, strict=True))
        self.penalty_ratio.collect()
        self._check_finite(losses, penalties, first_step)
        self.epoch += 1
        self.lr_schedule.after_epoch(losses.mean().item(), losses[-1].item())
        if self.lottery.rewinds_to(self.epoch):
            self.lottery.keep_early(self._ungated_state(), self.regularizer.state_dict())
        self.seconds += time.perf_counter() - begin
        return {
            "loss": losses.mean().item(),
            "penalty": penalties.mean().item(),
            "lr": self.optimizer.param_groups[0]["lr"],
        }

    def end_phase(self) -> None:
        """If a phase has ended, keep its network if it is a ticket; then prune, rewind and begin the next phase.

        Only the first step follows the last phase. Nothing happens if there is a single phase.
        """
        if self.lottery.num_phases == 1 or self.epoch % self.config.max_epochs:
            return
        model = self.trained_model().eval()
        prunable = prunable_weights(self.task, model, self.config)
        self.lottery.end_phase(
            self.epoch // self.config.max_epochs - 1,
            model,
            prunable,
            scores=lambda: dict(zip(prunable, score(self.task, model, self.config), strict=True)),
            gates=lambda: dict(zip(self.gated_names, self.regularizer.gate_values(), strict=True)),
        )
        if not self.finished:
            self._begin_phase()

    def trained_model(self) -> nn.Module:
        """A copy of the model as a plain network: gates are multiplied into the weights, adapters are merged."""
        with torch.no_grad():
            for layer in self.model.modules():
                if isinstance(layer, nn.RNNBase):  # it holds the weights of its last pass, with gates multiplied in
                    layer._update_flat_weights()
        model = copy.deepcopy(self.model)
        self.regularizer.fold(model)
        return self.task.deployed(model)

    def networks(self, levels: Iterable[float]) -> dict[float, nn.Module]:
        """The trained network for each sparsity, not pruned any further.

        It is the ticket of that sparsity if there is one, and otherwise the final network, which these sparsities
        share as one module.
        """
        shared: nn.Module | None = None
        found: dict[float, nn.Module] = {}
        for level in levels:
            if self.finished and level in self.lottery.tickets:
                found[level] = self.trained_model()
                found[level].load_state_dict(self.lottery.tickets[level].weights)
            else:
                shared = found[level] = shared or self.trained_model()
        return found

    def evaluate(self, levels: tuple[float, ...], *, config: TrialConfig | None = None) -> Evaluation:
        """Prune copies of the model at each sparsity and evaluate them on the validation split.

        The training model is not changed.

        After the last phase, sparsities with a ticket use the ticket's network instead of pruning the final one.

        Args:
            config: The configuration whose method prunes; by default this training's.
        """
        begin = time.perf_counter()
        config = config or self.config
        tickets = {level: ticket for level, ticket in self.lottery.tickets.items() if self.finished and level in levels}
        evaluation = Evaluation({}, {}, {})
        for level, ticket in tickets.items():
            network = self.networks((level,))[level].eval()
            evaluation |= measure(self.task, network, config, "validation", level, ticket.masks)
        others = tuple(level for level in levels if level not in tickets)
        if others:
            removed = {name: ~mask for name, mask in self.lottery.masks.items()}
            evaluation |= evaluate_pruned(self.task, self.trained_model(), config, others, "validation", removed)
        if tickets:
            for level, masks in evaluation.masks.items():
                evaluation.metrics[level]["weights_left"] = weights_left(masks)
        self.seconds += time.perf_counter() - begin
        return evaluation

    def penalty_warning(self) -> str:
        """A line if the penalty dominated the training, else "".

        Never for regularizers with gates: their penalty has to dominate, because it closes most of the gates.
        """
        gated = hasattr(sparsity.load("regularizers", self.config.regularizer), "gate_values")
        return "" if gated else self.penalty_ratio.warning(self.config.lam)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors, numbers, strings, None, and dictionaries and lists of them."""
        return {
            "training": self.config.training_key,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "regularizer": self.regularizer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_schedule": self.lr_schedule.state_dict(),
            "lottery": self.lottery.state_dict(),
            "early_stopping": self.early_stopping.state_dict(),
            "penalty_ratio": self.penalty_ratio.values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the `state_dict()` of the same training (`TrialConfig.training_key`).

        Raises:
            ValueError: If it is of another one.
        """
        if state["training"] != self.config.training_key:
            raise ValueError("checkpoint: must be of this training's configuration, was written for another")
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.early_stopping.load_state_dict(state["early_stopping"])
        self.penalty_ratio.values = dict(state["penalty_ratio"])
        if self.lottery.num_phases > 1:
            self.lottery.load_state_dict(state["lottery"], self.task.device)
            self._begin_phase()
        self.model.load_state_dict(state["model"])
        self.regularizer.load_state_dict(state["regularizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_schedule.load_state_dict(state["lr_schedule"])

    def _begin_phase(self) -> None:
        """Build the network of the phase, and its regularizer, optimizer and learning-rate schedule."""
        config, task = self.config, self.task
        seed_all(config.seed)
        self.model = task.build_model()
        check_network(self.model, short_name(config.architecture))
        held = prunable_weights(task, self.model, config) if self.lottery.num_phases > 1 else {}
        regularized = task.regularized(self.model)
        self.gated_names = list(regularized)
        active = self.lottery.schedule.regularized(self.phase)
        name, arguments = (config.regularizer, config.reg) if active else ("none", {})
        cls = sparsity.load("regularizers", name)
        self.regularizer = construct("reg", cls, list(regularized.values()), arguments=arguments).to(task.device)
        self.regularizer.initialize()
        self.lottery.begin_phase(self.model, held)  # after `initialize`, whose values early weights replace
        self.regularizer.attach(self.model)
        if self.lottery.early_gates:
            self.regularizer.load_state_dict(self.lottery.early_gates)
        self.optimizer = make_optimizer(task, config, self.model, self.regularizer)
        self.lr_schedule = construct(
            "lr_sched",
            sparsity.load("trainables.lr_schedules", config.lr_schedule),
            self.optimizer,
            max_epochs=config.max_epochs,
            steps_per_epoch=task.steps_per_epoch(config.batch_size),
            arguments=config.lr_sched,
        )

    def _update_early_stopping(self, value: float) -> None:
        """Record the unpruned network's metric; when training stops, restore the weights of the best evaluation."""
        state = {"model": self.model.state_dict(), "regularizer": self.regularizer.state_dict()}
        self.early_stopping.update(value, state)
        if self.finished and (best := self.early_stopping.best_state):
            self.model.load_state_dict(best["model"])
            self.regularizer.load_state_dict(best["regularizer"])

    def _penalty_context(self, step: int) -> ContextFactory:
        """Creates the context that measures the penalty's gradient at this step, or one that does nothing."""
        steps_per_epoch = self.task.steps_per_epoch(self.config.batch_size)
        measured = self.lam > 0 and is_measured(step, steps_per_epoch, self.config.max_epochs)
        if measured and (weights := penalized(self.model, self.regularizer)):
            return functools.partial(self.penalty_ratio.measure, step, weights)
        return contextlib.nullcontext

    def _check_finite(self, losses: Tensor, penalties: Tensor, first_step: int) -> None:
        """Raise Diverged if a step's loss with its penalty, or a weight after the last step, is not finite."""
        bad = ~torch.isfinite(losses + self.lam * penalties)
        if bad.any():
            step, what = int(bad.nonzero()[0]), ""
        elif not math.isfinite(sum(torch._foreach_norm([p.detach() for p in self.model.parameters()]))):
            step, what = len(losses) - 1, ", after which the weights overflow"
        else:
            return
        raise Diverged(
            f"diverged at step {first_step + step} (epoch {self.epoch}): task loss {losses[step]:g}, "
            f"penalty {penalties[step]:g}, lam {self.lam:g}{what}"
        )

    def _ungated_state(self) -> dict[str, Tensor]:
        """The model's state dict as if it had no gates: no gate parameters, and the weights under their usual names."""
        state = {name: t for name, t in self.model.state_dict().items() if "parametrizations" not in name.split(".")}
        gated = zip(self.gated_names, self.regularizer.weights, strict=True)
        return state | {name: weight.detach() for name, weight in gated if name not in state}


def seed_all(seed: int) -> None:
    """Seed the generators of torch, NumPy and Python: a user's network may draw from any of them."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the one that others draw from)
    random.seed(seed)


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed of 63 bits that differs between epochs and between trials."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> np.uint64(1))
