"""Checks of a sweep before a trial starts."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sparsity
from service.search.space import Arm, make_arms, make_config
from service.search.storage import open_storage
from service.spec import SweepSpec
from sparsity import masks
from sparsity.gates import Gated
from sparsity.import_strings import is_import_string, own_frame, short_name, source_of
from trainables.arguments import construct
from trainables.data.fingerprint import fingerprint
from trainables.errors import one_line
from trainables.loop import Training
from trainables.memory_estimate import training_memory
from trainables.network_checks import check_forward
from trainables.network_summary import Weight, summarize_network
from trainables.prunable import prunable_weights
from trainables.pruning.sizes import check_sizes
from trainables.pruning_method import PruningMethod
from trainables.pruning_schedule import make_pruning_schedule
from trainables.weights import tied_names

__all__ = ["Checked", "check"]


@dataclass(frozen=True)
class Checked:
    """A sweep that can start.

    Args:
        data: The task's data, loaded.
        fingerprint: A hash of the data.
        objective: The metric that the search maximizes.
        memory: Estimated bytes of a trial on a CPU; None if there is no estimate.
        network: The parameters of the network, with why each is left out of pruning.
    """

    arms: list[Arm]
    data: Any
    fingerprint: str
    objective: str
    memory: int | None
    network: list[Weight]


def check(spec: SweepSpec, *, writes: bool = True) -> Checked:
    """Find errors before a trial starts.

    Each arm's regularizer, optimizer and pruning schedule are built at both ends of its ranges, on a tiny weight, so
    that a value that a method rejects is found now. Then the data is loaded and the first arm's network is built.

    Args:
        writes: Whether the sweep's folder must be one that can be written, and its database one that can be opened.

    Raises:
        ValueError: One line that says what must be otherwise, also for whatever a user's own code raises.
    """
    check_unchanged(spec)
    if writes:
        check_writable(spec.folder)
        if spec.study_uri:
            open_storage(spec.study_uri)
    with faults_of_own_code():
        return check_parts(spec)


def check_parts(spec: SweepSpec) -> Checked:
    arms = make_arms(spec)
    configs = []
    for arm in arms:
        for end in ("low", "high"):
            params = {name: getattr(distribution, end) for name, distribution in arm.space.items()}
            configs.append(make_config(spec, arm.choices, params))
    for config in configs:
        weight = torch.nn.Parameter(torch.ones(4, 4))
        regularizer = sparsity.load("regularizers", config.regularizer)
        penalty = construct("reg", regularizer, [weight], arguments=config.reg)
        optimizer = construct("opt", sparsity.load("optimizers", config.optimizer), [weight], arguments=config.opt)
        if is_import_string(config.regularizer):
            check_penalty(penalty, config.regularizer)
        if is_import_string(config.optimizer):
            check_step(optimizer, weight, config.optimizer)
        make_pruning_schedule(config)
    task_class = sparsity.load("trainables.tasks", spec.trial.task)
    data = task_class.load(configs[0], str(spec.data_root) if spec.data_root else None)
    task = task_class(configs[0], data)
    training = Training(task, configs[0])
    model = training.model
    name = short_name(spec.trial.architecture)
    check_forward(task, model, name)
    if tied_names(model):  # some regularizers need weights that belong to one layer
        for config in {config.regularizer: config for config in configs[1:]}.values():
            Training(task, config)
    computed = isinstance(training.regularizer, Gated) or any(method.prunable for method in spec.pruning)
    plain = training.trained_model() if computed else model  # without gates and adapters
    for method in spec.pruning:
        weights = prunable_weights(task, plain, method)
        masks.rank([weight.detach()[:1] for weight in weights.values()], method.scope)  # the other rows are alike
        check_min_kept([w.numel() for w in weights.values()], method, spec.trial.pruned_by(method).levels)
    if spec.max_macs_left is not None:
        check_sizes(task, training.trained_model(), name)
    network = summarize_network(task, plain, configs[0], regularized=training.gated_names)
    memory = training_memory(task, configs[0], model)
    return Checked(arms, data, fingerprint(data), task_class.objective, memory, network)


def check_min_kept(sizes: Sequence[int], method: PruningMethod, levels: Sequence[float]) -> None:
    """Raise ValueError if `min_kept` leaves too few weights to remove at a sparsity.

    Args:
        sizes: Numbers of weights of the prunable tensors.
    """
    ranked_together = [[size] for size in sizes] if method.scope == "uniform" else [sizes]
    for group in ranked_together:
        removable = sum(max(0, size - method.min_kept) for size in group)
        for level in levels:
            if round(level * sum(group)) > removable:
                raise ValueError(
                    f"min_kept: must leave {round(level * sum(group))} of {sum(group)} weights to remove at sparsity "
                    f"{level:g}, got {method.min_kept} in each of {len(group)} tensors, which leaves {removable}"
                )


def check_unchanged(spec: SweepSpec) -> None:
    """Raise ValueError if a file has changed since the sweep's configuration was made, for example in a notebook."""
    for name, digest in spec.trial.sources.items():
        if source_of(name).digest != digest:
            raise ValueError(
                f"{short_name(name)}: must be the code that the configuration was made with, got a file that has "
                "changed since: make the TrialConfig and the Sweep again"
            )


@contextlib.contextmanager
def faults_of_own_code() -> Iterator[None]:
    """Turn an exception that passed through a user's own code into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        place = own_frame(error)
        if not place:
            raise
        raise ValueError(f"{place}: must run on an example before the sweep starts, got {one_line(error)}") from error


def check_penalty(penalty: Any, name: str) -> None:
    try:
        value = penalty()
    except NotImplementedError as error:
        raise ValueError(f"regularizer: {name} must define penalty(weight), got none ({error})") from None
    if not (isinstance(value, torch.Tensor) and value.ndim == 0 and value.is_floating_point()):
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"regularizer: penalty(weight) of {name} must return a scalar tensor, got {got}")
    penalty.backward(1.0)


def check_step(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, name: str) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    try:
        optimizer.step(closure)  # type: ignore[arg-type]
    except TypeError as error:
        if own_frame(error):
            raise
        raise ValueError(f"optimizer: {name} must have step(closure), got {one_line(error)}") from error


def check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"runs: must be a folder that can be written (choose another with --runs), got {folder} ({error.strerror})"
        ) from None
