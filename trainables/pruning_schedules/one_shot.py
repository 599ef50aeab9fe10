from trainables.pruning_schedule import PruningSchedule

__all__ = ["OneShot"]


class OneShot(PruningSchedule):
    """One-shot pruning: train once, prune once at each sparsity, do not retrain.

    Cost: One training.
    """
