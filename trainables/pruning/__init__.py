"""One-shot pruning of a trained model: score, prune and evaluate, diagnose, save and load again."""

from trainables.pruning.checkpoint import load_pruned, read_description, save_pruned
from trainables.pruning.diagnosis import describe_layers, diagnose
from trainables.pruning.evaluation import (
    Evaluation,
    apply_pruning,
    evaluate_pruned,
    measure,
    objectives,
    recalibrated,
    score,
)
from trainables.pruning.sizes import shrunk_sizes
from trainables.pruning.trained import Prunable, TrainedNetwork, load_trained, save_trained

__all__ = [
    "Evaluation",
    "Prunable",
    "TrainedNetwork",
    "apply_pruning",
    "describe_layers",
    "diagnose",
    "evaluate_pruned",
    "load_pruned",
    "load_trained",
    "measure",
    "objectives",
    "read_description",
    "recalibrated",
    "save_pruned",
    "save_trained",
    "score",
    "shrunk_sizes",
]
