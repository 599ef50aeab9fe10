"""The base class of learning-rate schedules."""

from typing import Any

__all__ = ["LRSchedule"]

GROUP_KEYS = ("lr", "initial_lr", "max_lr", "min_lr")  # what schedulers store in a parameter group


class LRSchedule:
    """A learning-rate schedule; the base class keeps the learning rate constant.

    The loop calls `after_step()` after each update, and `after_epoch(loss, last_loss)` after each epoch, following that
    epoch's last `after_step()`. To resume, construct optimizer and schedule anew and load both states, in either order.
    The learning rates are then exactly those of a run that never stopped.

    Args:
        optimizer: Only its `param_groups` are used, so the optimizer may call its closure twice or share the groups
            with another one. Each group starts from the learning rate that it has now.
        max_epochs: Length of the run in epochs.
        steps_per_epoch: Number of updates per epoch.

    Raises:
        ValueError: If max_epochs or steps_per_epoch is below 1.
    """

    def __init__(self, optimizer: Any, *, max_epochs: int, steps_per_epoch: int):
        for name, value in (("max_epochs", max_epochs), ("steps_per_epoch", steps_per_epoch)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be a whole number >= 1, got {value!r}")
        self.optimizer = optimizer
        self.max_epochs = max_epochs
        self.steps_per_epoch = steps_per_epoch
        self.inner: Any = None  # one of torch's schedulers, if a subclass uses one
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # torch's schedulers would use what an earlier one left

    @property
    def num_steps(self) -> int:
        """Number of updates in the whole run."""
        return self.max_epochs * self.steps_per_epoch

    def after_step(self) -> None:
        """Called after each update."""

    def after_epoch(self, loss: float, last_loss: float) -> None:
        """Called after each epoch.

        Args:
            loss: Mean training loss of the epoch.
            last_loss: Training loss of its last batch.
        """

    def scale_lr(self, factor: float) -> None:
        """Multiply the learning rate of every parameter group by `factor`."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def state_dict(self) -> dict[str, Any]:
        """Return the state, in plain numbers, strings, lists and dictionaries."""
        groups = [{key: group[key] for key in GROUP_KEYS if key in group} for group in self.optimizer.param_groups]
        inner = None if self.inner is None else self.inner.state_dict()
        return {
            "max_epochs": self.max_epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "groups": groups,
            "inner": inner,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the `state_dict()` of a schedule of the same class.

        Raises:
            ValueError: If its run had another length.
        """
        for name in ("max_epochs", "steps_per_epoch"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"{type(self).__name__}: {name} must be {state[name]} (that of the run to resume), got "
                    f"{getattr(self, name)}"
                )
        for group, saved in zip(self.optimizer.param_groups, state["groups"], strict=True):
            group.update(saved)
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])
