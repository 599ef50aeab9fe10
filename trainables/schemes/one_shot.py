from trainables.schemes._base import Scheme

__all__ = ["OneShot"]


class OneShot(Scheme):
    """Train once, prune once at each sparsity, do not retrain: what this project's sweeps search for, as a rule.

    Cost: one training.
    """
