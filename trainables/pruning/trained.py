"""The trained network of a trial before it is pruned, and its file."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from sparsity.import_strings import is_import_string
from trainables.config import TrialConfig
from trainables.prunable import prunable_weights
from trainables.pruning.checkpoint import load_pruned, read_description, save_pruned
from trainables.pruning.evaluation import Evaluation, evaluate_pruned
from trainables.task import Task

__all__ = ["Prunable", "TrainedNetwork", "load_trained", "save_trained"]


class Prunable(Protocol):
    """The result of a training: one network or, after a multi-round pruning schedule, one for each sparsity."""

    task: Task

    def networks(self, levels: Iterable[float]) -> dict[float, nn.Module]:
        """The trained network for each sparsity, not pruned any further."""
        ...

    def evaluate(self, levels: tuple[float, ...], *, config: TrialConfig | None = None) -> Evaluation:
        """Prune copies at each sparsity by the method of `config`, and evaluate them on the validation split."""
        ...


class TrainedNetwork:
    """A network that any method can prune, at any sparsity.

    Args:
        network: The dense network in plain weights.
        config: The configuration whose method prunes by default.
    """

    def __init__(self, task: Task, network: nn.Module, config: TrialConfig):
        self.task, self.network, self.config = task, network, config

    def networks(self, levels: Iterable[float]) -> dict[float, nn.Module]:
        return dict.fromkeys(levels, self.network)

    def evaluate(self, levels: tuple[float, ...], *, config: TrialConfig | None = None) -> Evaluation:
        return evaluate_pruned(self.task, self.network, config or self.config, levels, "validation")


def save_trained(folder: Path, trained: TrainedNetwork, record: Mapping[str, Any]) -> None:
    """Write the dense network and the record of its training atomically.

    The folder has the form of a pruned checkpoint, so `load_pruned` reads it too.
    """
    weights = prunable_weights(trained.task, trained.network, trained.config)
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    description = {"training": {"key": trained.config.training_key, **record}}
    save_pruned(folder, trained.task, trained.network, kept, description)


def load_trained(folder: Path, task: Task, config: TrialConfig) -> tuple[TrainedNetwork, dict[str, Any]] | None:
    """The trained network in a folder, with its record; None if the folder does not exist.

    Raises:
        ValueError: If a file is damaged, or the network is of another training.
        OSError: If a file cannot be read.
    """
    if not folder.exists():
        return None
    network = load_pruned(folder, config.architecture if is_import_string(config.architecture) else None)
    record = read_description(folder).get("training", {})
    if record.get("key") != config.training_key:
        raise ValueError(f"{folder}: must be of training {config.training_key}, got {record.get('key')}")
    return TrainedNetwork(task, task.placed(network), config), record
