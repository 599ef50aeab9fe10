"""Checks of a sweep before a trial starts."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sparsity
from service.search.space import Arm, make_arms, make_config
from service.spec import SweepSpec
from sparsity import masks
from trainables.config import construct
from trainables.data.fingerprint import fingerprint
from trainables.loop import Training
from trainables.memory_estimate import training_memory
from trainables.pruning_schedule import make_pruning_schedule

__all__ = ["Checked", "check"]


@dataclass(frozen=True)
class Checked:
    """A sweep that can start.

    Args:
        data: The task's data, loaded.
        fingerprint: A hash of the data.
        objective: The metric that the search maximizes.
        memory: Estimated bytes of a trial on a CPU; None if there is no estimate.
    """

    arms: list[Arm]
    data: Any
    fingerprint: str
    objective: str
    memory: int | None


def check(spec: SweepSpec) -> Checked:
    """Find errors before a trial starts.

    Each arm's regularizer, optimizer and pruning schedule are built at both ends of its ranges, on a tiny weight, so
    that a value that a method rejects is found now. Then the data is loaded and the first arm's network is built.

    Raises:
        ValueError: One line that says what must be otherwise.
    """
    arms = make_arms(spec)
    configs = []
    for arm in arms:
        for end in ("low", "high"):
            params = {name: getattr(distribution, end) for name, distribution in arm.space.items()}
            configs.append(make_config(spec, arm.choices, params))
    for config in configs:
        weight = torch.nn.Parameter(torch.ones(4, 4))
        construct("reg", sparsity.load("regularizers", config.regularizer), [weight], arguments=config.reg)
        construct("opt", sparsity.load("optimizers", config.optimizer), [weight], arguments=config.opt)
        make_pruning_schedule(config)
    check_writable(spec.folder)
    task_class = sparsity.load("trainables.tasks", spec.trial.task)
    data = task_class.load(configs[0], str(spec.data_root) if spec.data_root else None)
    task = task_class(configs[0], data)
    model = Training(task, configs[0]).model
    rows = [weight.detach()[:1] for weight in task.prunable(model).values()]  # the other rows are alike
    for method in spec.pruning:
        masks.rank(rows, method.scope)
    memory = training_memory(task, configs[0], model)
    return Checked(arms, data, fingerprint(data), task_class.objective, memory)


def check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"runs: must be a folder that can be written (choose another with --runs), got {folder} ({error.strerror})"
        ) from None
