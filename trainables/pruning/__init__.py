"""One-shot pruning of a trained model: score, prune and evaluate, diagnose, save and load again."""

from trainables.pruning.checkpoint import load_pruned, save_pruned
from trainables.pruning.diagnosis import collapse, describe_layers, diagnose
from trainables.pruning.evaluation import (
    Evaluation,
    apply_pruning,
    evaluate_pruned,
    measure,
    objectives,
    recalibrated,
    score,
)

__all__ = [
    "Evaluation",
    "apply_pruning",
    "collapse",
    "describe_layers",
    "diagnose",
    "evaluate_pruned",
    "load_pruned",
    "measure",
    "objectives",
    "recalibrated",
    "save_pruned",
    "score",
]
