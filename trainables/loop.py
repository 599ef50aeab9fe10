"""The loop: plain PyTorch in a plain Python process. No Ray, no records; what it computes, the configuration decides.

Every epoch draws its random numbers (order, augmentation, dropout, gates) from (seed, epoch) alone, so a run that goes
on from a checkpoint written between two epochs equals one that never stopped, bit for bit on a CPU.
"""

import contextlib
import copy
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sparsity
from trainables.config import TrialConfig, construct
from trainables.penalty_ratio import PENALTY_RATIO_LIMIT, PenaltyRatio, is_measured, penalized
from trainables.pruning import Evaluation, evaluate_pruned, measure, score
from trainables.pruning_schedule import PruningSchedule
from trainables.task import Task

__all__ = ["Diverged", "Training", "collapse", "load_task", "make_pruning_schedule", "objectives", "train"]


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


def train_step(
    model, batch, *, task, regularizer, lam, optimizer, accumulate=1, watch=contextlib.nullcontext
) -> tuple[Tensor, Tensor]:
    """One update. The optimizer decides how many gradients it needs; the loop stays the same.

    accumulate: parts in which a batch's loss and gradient are computed, in the memory of one part.
    watch: makes the context in which the penalty's first gradient is added (see `PenaltyRatio.measure`).
    Returns the task's loss and the unscaled penalty of the first gradient, as tensors: nothing waits for the device.
    """
    terms: list[tuple[Tensor, Tensor]] = []

    def closure():
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for weight, part in task.parts(batch, accumulate) if accumulate > 1 else [(1.0, batch)]:
            with batchnorm_frozen(model, when=bool(terms)):
                losses.append(weight * task.loss(model, part))
            losses[-1].backward()
        task_loss = torch.stack([part.detach() for part in losses]).sum()
        task.before_penalty(model)
        with contextlib.nullcontext() if terms else watch():
            penalty = regularizer.backward(lam)  # added to the gradients that are there
        terms.append((task_loss, penalty))
        return task_loss + lam * penalty

    optimizer.step(closure)
    return terms[0]


class Training:
    """One configuration being trained, an epoch at a time; its state is what a checkpoint holds.

    config: a `TrialConfig`. ValueError names the argument that an optimizer, regularizer, network or pruning_schedule does not take.
    """

    def __init__(self, task: Task, config: TrialConfig):
        self.task, self.config = task, config
        self.pruning_schedule = make_pruning_schedule(config)
        self.epoch = 0  # epochs done, of all phases
        self.seconds = 0.0  # spent in epochs and evaluations, over all sittings
        self.kept: dict[str, Tensor] = {}  # weight name -> bool, where a pruning_schedule has removed something
        self.early: dict[str, Tensor] | None = None  # the weights that phases after the first begin at, without gates
        self.early_gates: dict[str, Tensor] = {}  # the gates that go with them, where the first phase has some
        self.tickets: dict[float, dict[str, Any]] = {}  # sparsity -> {"state", "kept"} of the network to stand there
        self.best: dict[str, Any] | None = None  # with patience: {"value", "evaluations_since", "model", "regularizer"}
        self.stopped = False  # early
        self.penalty_ratio = PenaltyRatio()
        self._begin_phase()

    @property
    def phase(self) -> int:
        """The pruning_schedule's phase that the next epoch belongs to, the last one after its end."""
        return min(self.epoch // self.config.max_epochs, self.pruning_schedule.num_phases - 1)

    @property
    def evaluation_epochs(self) -> list[int]:
        """The epochs, of all phases, after which there is an evaluation and a checkpoint."""
        return [
            p * self.config.max_epochs + evaluation
            for p in range(self.pruning_schedule.num_phases)
            for evaluation in self.config.evaluation_epochs
        ]

    @property
    def finished(self) -> bool:
        return self.stopped or self.epoch >= self.pruning_schedule.num_phases * self.config.max_epochs

    @property
    def lam(self) -> float:
        return self.config.lam if self.pruning_schedule.regularized(self.phase) else 0.0

    def _begin_phase(self) -> None:
        """The network as it begins a phase, with an optimizer, a regularizer and a schedule of its own."""
        config, task = self.config, self.task
        torch.manual_seed(config.seed)
        self.model = task.build_model()
        if self.early is not None:
            self.model.load_state_dict(self.early)
        hold_at_zero(task.prunable(self.model), self.kept)
        regularized = task.regularized(self.model)
        self.gated_names = list(regularized)
        name, arguments = (
            (config.regularizer, config.reg) if self.pruning_schedule.regularized(self.phase) else ("none", {})
        )
        regularizer = sparsity.load("regularizers", name)
        self.regularizer = construct("reg", regularizer, list(regularized.values()), arguments=arguments).to(
            task.device
        )
        self.regularizer.attach(self.model)
        if self.early_gates:
            self.regularizer.load_state_dict(self.early_gates)
        groups = parameter_groups(self.model, self.regularizer, config.opt.get("weight_decay", 0.0))
        self.optimizer = construct("opt", sparsity.load("optimizers", config.optimizer), groups, arguments=config.opt)
        self.schedule = construct(
            "lr_sched",
            sparsity.find("trainables.lr_schedules", config.lr_schedule),
            self.optimizer,
            max_epochs=config.max_epochs,
            steps_per_epoch=task.steps_per_epoch(config.batch_size),
            arguments=config.lr_sched,
        )

    def train_to_evaluation(
        self, *, evaluate: bool = True, report: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Train to the next evaluation; `report` gets each epoch's terms. Returns the last epoch's, and, with `evaluate`,
        `<objective>_dense` and `<objective>_pruned`: validation, at the target sparsity (but for the last evaluation: the
        evaluation of all levels follows it). Raises Diverged as `run_epoch` does.
        """
        target = next(evaluation for evaluation in self.evaluation_epochs if evaluation > self.epoch)
        while True:
            terms: dict[str, Any] = self.run_epoch()
            if report:
                report({"epoch": self.epoch, **terms})
            if self.epoch == target:
                break
            self._end_phase()
        if self.config.patience is not None or (evaluate and target < self.evaluation_epochs[-1]):
            metrics = self.evaluate((0.0, self.config.target_sparsity)).metrics
            terms |= objectives(self.task, self.config, metrics)
            self._note_progress(terms[f"{self.task.objective}_dense"])
        if self.pruning_schedule.num_phases > 1:
            terms["weights_left"] = 1 - removed(self.kept)
        self._end_phase()
        return terms

    def _note_progress(self, value: float) -> None:
        """Early stopping: after `patience` evaluations without a better dense objective, stop at the best one's weights."""
        if self.config.patience is None:
            return
        if self.best is None or value > self.best["value"]:
            state = copy.deepcopy({"model": self.model.state_dict(), "regularizer": self.regularizer.state_dict()})
            self.best = {"value": value, "evaluations_since": 0, **state}
        else:
            self.best["evaluations_since"] += 1
        self.stopped = self.best["evaluations_since"] >= self.config.patience
        if self.finished:
            self.model.load_state_dict(self.best["model"])
            self.regularizer.load_state_dict(self.best["regularizer"])

    def _end_phase(self) -> None:
        """Where the epoch was a phase's last: keep its network, remove what the pruning_schedule says, begin the next one."""
        if self.pruning_schedule.num_phases == 1:
            return
        if self.epoch == self.pruning_schedule.rewind_epoch:
            self.early = copy.deepcopy(self._weights())
            self.early_gates = copy.deepcopy(self.regularizer.state_dict())
        done, rest = divmod(self.epoch, self.config.max_epochs)
        if rest:
            return
        phase = done - 1
        model = self.trained_model()
        prunable = self.task.prunable(model)
        kept = self.kept or {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable.items()}
        if self.pruning_schedule.is_ticket(phase):
            for level in self.config.levels:
                if level not in self.tickets and has_sparsity(kept, level):
                    self.tickets[level] = {"state": model.state_dict(), "kept": kept}
        if self.finished:
            return
        self.kept = self.pruning_schedule.next_masks(
            phase,
            kept,
            scores=lambda: dict(zip(prunable, score(self.task, model.eval(), self.config), strict=True)),
            gates=lambda: dict(zip(self.gated_names, self.regularizer.gate_values(), strict=True)),
        )
        self._begin_phase()

    def _weights(self) -> dict[str, Tensor]:
        """The model's state dict as it would be without gates: the trained weights by their own names."""
        state = {name: t for name, t in self.model.state_dict().items() if "parametrizations" not in name.split(".")}
        gated = zip(self.gated_names, self.regularizer.weights, strict=True)
        return state | {name: weight.detach() for name, weight in gated if name not in state}

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch; returns its mean `loss` (the task's), mean `penalty` (unscaled) and the `lr` it ended with.

        Raises Diverged, naming step, lam, loss and penalty, if the objective or a weight is not finite.
        """
        begin = time.perf_counter()
        seed = random_seed(self.config.seed, self.epoch)
        torch.manual_seed(seed)
        self.model.train()
        steps = []
        first = self.epoch * self.task.steps_per_epoch(self.config.batch_size)
        for step, batch in enumerate(self.task.batches("train", self.config.batch_size, seed=seed), first):
            terms = train_step(
                self.model,
                batch,
                task=self.task,
                regularizer=self.regularizer,
                lam=self.lam,
                optimizer=self.optimizer,
                accumulate=self.config.accumulate,
                watch=self._watch(step),
            )
            steps.append(terms)
            self.regularizer.project()
            self.schedule.after_step()
        losses, penalties = (torch.stack(terms).double().cpu() for terms in zip(*steps, strict=True))
        self.penalty_ratio.collect()
        self._check_finite(losses, penalties)
        self.epoch += 1
        self.schedule.after_epoch(losses.mean().item(), losses[-1].item())
        self.seconds += time.perf_counter() - begin
        return {
            "loss": losses.mean().item(),
            "penalty": penalties.mean().item(),
            "lr": self.optimizer.param_groups[0]["lr"],
        }

    def _watch(self, step: int) -> Callable[[], contextlib.AbstractContextManager]:
        """Makes the context in which the penalty's gradient is added at a step, counted over all phases."""
        per_epoch = self.task.steps_per_epoch(self.config.batch_size)
        weights = penalized(self.model, self.regularizer)
        if weights and self.lam > 0 and is_measured(step, per_epoch, self.config.max_epochs):
            return functools.partial(self.penalty_ratio.measure, step, weights)
        return contextlib.nullcontext

    def penalty_warning(self) -> str:
        """Says that the penalty took over the training, "" if it did not.

        Gates are left out: closing most of them is what their penalty is for.
        """
        ratio, step = (self.penalty_ratio.values.get(name, 0.0) for name in ("max", "max_step"))
        gated = hasattr(sparsity.load("regularizers", self.config.regularizer), "gate_values")
        if ratio <= PENALTY_RATIO_LIMIT or gated:
            return ""
        return (
            f"penalty: its gradient reached {ratio:.3g} times the loss's at step {step} "
            f"with lam {self.config.lam:g}, more than {PENALTY_RATIO_LIMIT:g} times (lower lam, or raise the "
            "regularizer's eps where it has one)"
        )

    def _check_finite(self, losses: Tensor, penalties: Tensor) -> None:
        bad = ~torch.isfinite(losses + self.lam * penalties)
        if bad.any():
            step, what = int(bad.nonzero()[0]), ""
        elif not math.isfinite(sum(torch._foreach_norm([p.detach() for p in self.model.parameters()]))):
            step, what = len(losses) - 1, ", after which the weights overflow"
        else:
            return
        raise Diverged(
            f"diverged at step {step + self.epoch * len(losses)} (epoch {self.epoch}): task loss {losses[step]:g}, "
            f"penalty {penalties[step]:g}, lam {self.lam:g}{what}"
        )

    def trained_model(self) -> nn.Module:
        """A copy of the model as it stands, in plain weights: gates, if any, are folded into them, adapters merged."""
        model = copy.deepcopy(self.model)
        self.regularizer.fold(model)
        return self.task.deployed(model)

    def networks(self, levels: Iterable[float]) -> dict[float, nn.Module]:
        """The trained network whose pruned one stands at each level: one for all of them, or a pruning_schedule's tickets."""
        shared: nn.Module | None = None
        found: dict[float, nn.Module] = {}
        for level in levels:
            if self.finished and level in self.tickets:
                found[level] = self.trained_model()
                found[level].load_state_dict(self.tickets[level]["state"])
            else:
                shared = found[level] = shared or self.trained_model()
        return found

    def evaluate(self, levels: tuple[float, ...], split: str = "validation") -> Evaluation:
        """A copy of the model, pruned at each level and evaluated; the training model is not touched.

        After the last phase of a pruning_schedule, the network of each level is the ticket that was trained for it.
        """
        begin = time.perf_counter()
        own = {level: self.tickets[level] for level in levels if self.finished and level in self.tickets}
        rest = tuple(level for level in levels if level not in own)
        evaluation = Evaluation({}, {}, {})
        for level, ticket in own.items():
            (network,) = self.networks((level,)).values()
            evaluation.metrics[level] = measure(self.task, network.eval(), self.config, split)
            evaluation.masks[level], evaluation.shifted[level] = ticket["kept"], {}
        if rest:  # the sparser ones: a pruning_schedule has tickets up to some sparsity
            pruned = evaluate_pruned(self.task, self.trained_model(), self.config, rest, split)
            evaluation.metrics.update(pruned.metrics)
            evaluation.masks.update(pruned.masks)
            evaluation.shifted.update(pruned.shifted)
        if own:
            for level, masks in evaluation.masks.items():
                evaluation.metrics[level]["weights_left"] = 1 - removed(masks)
        self.seconds += time.perf_counter() - begin
        return evaluation

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "regularizer": self.regularizer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "seconds": self.seconds,
            "pruning_schedule": {
                "kept": self.kept,
                "early": self.early,
                "early_gates": self.early_gates,
                "tickets": self.tickets,
            },
            "best": self.best,
            "stopped": self.stopped,
            "penalty_ratio": self.penalty_ratio.values,
            "config": self.config.model_dump(mode="json"),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()` of a training of the same configuration; ValueError if it is of another one."""
        if state["config"] != self.config.model_dump(mode="json"):
            raise ValueError("checkpoint: must be of the same configuration, got one of another")
        self.epoch, self.seconds, self.stopped = state["epoch"], state["seconds"], state["stopped"]
        self.best = state["best"]
        self.penalty_ratio.values = dict(state.get("penalty_ratio", {}))  # none in checkpoints of older versions
        if self.pruning_schedule.num_phases > 1:
            pruning_schedule = state["pruning_schedule"]
            self.kept, self.early, self.tickets = (pruning_schedule[name] for name in ("kept", "early", "tickets"))
            self.early_gates = pruning_schedule["early_gates"]
            self._begin_phase()
        self.model.load_state_dict(state["model"])
        self.regularizer.load_state_dict(state["regularizer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["lr_schedule"])


def parameter_groups(model: nn.Module, regularizer: Any, weight_decay: Any) -> list[dict[str, Any]]:
    """What an optimizer of `weight_decay` trains: the model's parameters, then what needs settings of its own.

    Weights that the regularizer decays itself have no decay in the optimizer. Gates have none either, which would pull
    a logit to half open, and the learning rate `gate_lr` where the regularizer has one.
    """
    gates = dict.fromkeys(regularizer.parameters())  # once attached, they are the model's parameters too
    taken = dict.fromkeys(regularizer.take_decay(weight_decay) if weight_decay else ())
    trained = [p for p in model.parameters() if p.requires_grad and p not in gates]
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if p not in taken]}]
    if taken:
        groups.append({"params": [p for p in trained if p in taken], "weight_decay": 0.0})
    if gates:
        lr = {} if regularizer.gate_lr is None else {"lr": regularizer.gate_lr}
        groups.append({"params": list(gates), "weight_decay": 0.0, **lr})
    return groups


def make_pruning_schedule(config: TrialConfig) -> PruningSchedule:
    """The pruning_schedule of a configuration. ValueError names the argument, or what does not go together."""
    return construct(
        "pruning_sched",
        sparsity.find("trainables.pruning_schedules", config.pruning_schedule),
        config,
        arguments=config.pruning_sched,
    )


def num_epochs(config: TrialConfig) -> int:
    """Epochs of a whole trial: `max_epochs` in each phase of its pruning_schedule."""
    return make_pruning_schedule(config).num_phases * config.max_epochs


def hold_at_zero(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
    """Set what is not kept to zero, and its gradient from now on: no optimizer, perturbation or decay moves it then."""
    for name, mask in kept.items():
        mask = mask.to(weights[name].device)
        with torch.no_grad():
            weights[name].masked_fill_(~mask, 0)
        weights[name].register_hook(lambda grad, mask=mask: grad * mask)


def removed(kept: Mapping[str, Tensor]) -> float:
    """The fraction of weights that masks remove; 0 of no masks."""
    num_weights = sum(mask.numel() for mask in kept.values())
    return 1 - sum(int(mask.sum()) for mask in kept.values()) / num_weights if num_weights else 0.0


def has_sparsity(kept: Mapping[str, Tensor], level: float) -> bool:
    """Whether masks remove the fraction `level`, up to half a weight a tensor, which is how pruning rounds."""
    num_weights = sum(mask.numel() for mask in kept.values())
    return num_weights - sum(int(mask.sum()) for mask in kept.values()) >= level * num_weights - len(kept) / 2


def objectives(task: Task, config: TrialConfig, metrics: Mapping[float, Mapping[str, float]]) -> dict[str, float]:
    """`<objective>_dense` and `<objective>_pruned`, of an evaluation at 0 and at the target sparsity."""
    name = task.objective
    return {f"{name}_dense": metrics[0.0][name], f"{name}_pruned": metrics[config.target_sparsity][name]}


def collapse(config: TrialConfig, metrics: Mapping[float, Mapping[str, float]]) -> dict[str, Any]:
    """Where the networks of an evaluation of all levels predict the same for everything (see `Task.evaluate`).

    `collapsed`: whether the dense network or the one at the target sparsity does. `collapsed_from`: the lowest sparsity
    from which on all of them do, None if the sparsest does not.
    """
    at = {level: bool(values["collapsed"]) for level, values in sorted(metrics.items())}
    tail = list(itertools.takewhile(at.get, reversed(at)))
    return {
        "collapsed": at[0.0] or at[config.target_sparsity],
        "collapsed_from": tail[-1] if tail else None,
    }


def train(
    task: Task, config: TrialConfig | Mapping[str, Any], *, report: Callable[[dict], None] | None = None
) -> tuple[nn.Module, Evaluation]:
    """Train a configuration to its end in this process and prune at each of its levels.

    report: called after each epoch with {"epoch", "loss", "penalty", "lr"}. Returns the dense model and the evaluation
    of the pruned ones on the validation split. Raises Diverged where the loss does.
    """
    training = Training(task, config if isinstance(config, TrialConfig) else TrialConfig.model_validate(config))
    while not training.finished:
        training.train_to_evaluation(evaluate=False, report=report)
    return training.networks((0.0,))[0.0], training.evaluate(training.config.levels)
