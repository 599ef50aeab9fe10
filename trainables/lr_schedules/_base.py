"""What the schedules share: their interface, and the saving and restoring of the optimizer's learning rates."""

from typing import Any

__all__ = ["Schedule"]

GROUP_KEYS = ("lr", "initial_lr", "max_lr", "min_lr")  # what torch's schedulers and ours keep in a parameter group


class Schedule:
    """Sets the lr of an optimizer while it trains; here it stays as it is.

    optimizer: its `param_groups` are all that a schedule touches, so the optimizer may call its closure twice or share
        the groups with another one. Each group starts from the lr that it has when the schedule is made, and keeps its
        ratio to the others.
    max_epochs, steps_per_epoch: the length of the run that the schedule is laid out for. ValueError if below 1.

    The loop calls `after_step()` after each update and `after_epoch(loss, last_loss)` after each epoch, behind that
    epoch's last `after_step()`; `loss` is the epoch's mean training loss, `last_loss` that of its last batch.
    To resume, make optimizer and schedule anew and load both states, in either order: the learning rates are then
    exactly those of a run that never stopped.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch):
        for name, value in (("max_epochs", max_epochs), ("steps_per_epoch", steps_per_epoch)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be a whole number >= 1, got {value!r}")
        self.optimizer = optimizer
        self.max_epochs = max_epochs
        self.steps_per_epoch = steps_per_epoch
        self.inner: Any = None  # one of torch's schedulers, where a schedule is made of one
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # torch would go by what an earlier schedule left here

    @property
    def num_steps(self):
        """The number of updates in the whole run."""
        return self.max_epochs * self.steps_per_epoch

    def after_step(self):
        """Note that one more update was made."""

    def after_epoch(self, loss, last_loss):
        """Note that one more epoch ended, with this mean training loss and this loss of its last batch."""

    def scale_lr(self, factor):
        """Multiply the lr of every parameter group."""
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    def state_dict(self):
        """All that is needed to go on, in plain numbers, strings, lists and dictionaries."""
        groups = [{key: group[key] for key in GROUP_KEYS if key in group} for group in self.optimizer.param_groups]
        inner = None if self.inner is None else self.inner.state_dict()
        return {
            "max_epochs": self.max_epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "groups": groups,
            "inner": inner,
        }

    def load_state_dict(self, state):
        """Go on from a `state_dict()`, of a schedule of the same kind. ValueError if its run had another length."""
        for name in ("max_epochs", "steps_per_epoch"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"{type(self).__name__}: {name} must be {state[name]}, as it was in the run that is resumed, got "
                    f"{getattr(self, name)}"
                )
        for group, saved in zip(self.optimizer.param_groups, state["groups"], strict=True):
            group.update(saved)
        if self.inner is not None:
            self.inner.load_state_dict(state["inner"])
