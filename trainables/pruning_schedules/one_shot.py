from trainables.pruning_schedule import PruningSchedule

__all__ = ["OneShot"]


class OneShot(PruningSchedule):
    """Train once, prune once at each sparsity, do not retrain: what this project's sweeps search for, as a rule.

    Cost: one training.
    """
