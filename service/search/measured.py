"""What a rule for lam measures of a network before it can carry lam over to it."""

from pathlib import Path

from service.search.carrying import SHARE_RULE, rule_of
from service.search.known import Asked, Known
from trainables.config import TrialConfig
from trainables.loop import Training, load_task
from trainables.prunable import prunable_weights

__all__ = ["rule_values"]


def rule_values(
    known: Known, asked: Asked, *, task: str = "cnn", data_root: Path | None = None
) -> tuple[float | None, Asked]:
    """Measure what the regularizer's rule needs.

    Args:
        known: The setting that lam is taken from.
        asked: The setting that lam is sought for.
        task: The task of the network.
        data_root: The folder of the dataset.

    Returns:
        What lam is multiplied by, None if the rule measures no such number; and the setting with what was measured.

    Raises:
        ValueError: If the rule measures and there is no dataset, or the network cannot be trained.
    """
    rule = rule_of(asked.regularizer)
    if rule == SHARE_RULE and known.penalty_share:
        training = begin(known, asked, task, data_root)
        training.run_epoch()
        share = training.penalty_ratio.describe()["penalty_share_start"]
        return known.penalty_share / share, asked
    if rule == "lam num_weights" and known.num_prunable:
        training = begin(known, asked, task, data_root)
        weights = prunable_weights(training.task, training.model, training.config)
        return None, asked.model_copy(update={"num_prunable": sum(weight.numel() for weight in weights.values())})
    return None, asked


def begin(known: Known, asked: Asked, task: str, data_root: Path | None) -> Training:
    """A training of one epoch of the network asked for, with the known lam."""
    if asked.dataset is None:
        rule = rule_of(asked.regularizer)
        raise ValueError(f"dataset: must be given, as --dataset (the rule {rule} measures the network), got none")
    opt = {"lr": asked.lr or known.lr or 0.1, "weight_decay": asked.weight_decay or known.weight_decay or 0.0}
    config = TrialConfig.model_validate(
        {
            **{"task": task, "dataset": asked.dataset, "architecture": asked.architecture, "model": asked.model},
            **{"optimizer": "sgd", "opt": opt, "regularizer": asked.regularizer, "lam": known.lam},
            **{"max_epochs": 1, "target_sparsity": asked.target_sparsity or 0.9},
        }
    )
    return Training(load_task(config, root=str(data_root) if data_root else None), config)
