"""Early stopping: keep the best weights, and stop when they stay the best for too long."""

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Remember the best evaluation, and stop after `patience` later ones that are not better.

    Args:
        patience: Number of evaluations in a row without a higher value after which training stops. None never stops
            and remembers nothing.

    Attributes:
        stopped: Whether training is to stop.
        best_state: A copy of the state at the best evaluation, None before the first one.
    """

    def __init__(self, patience: int | None):
        self.patience = patience
        self.stopped = False
        self.best_value: float | None = None
        self.best_state: dict[str, Any] | None = None
        self.evaluations_since_best = 0

    def update(self, value: float, state: Mapping[str, Any]) -> None:
        """Take note of an evaluation. `state` is copied if `value` is the highest so far; the first of equals stays."""
        if self.patience is None:
            return
        if self.best_value is None or value > self.best_value:
            self.best_value, self.best_state = value, copy.deepcopy(dict(state))
            self.evaluations_since_best = 0
        else:
            self.evaluations_since_best += 1
        self.stopped = self.evaluations_since_best >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {
            "stopped": self.stopped,
            "best_value": self.best_value,
            "best_state": self.best_state,
            "evaluations_since_best": self.evaluations_since_best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in self.state_dict():
            setattr(self, name, state[name])
