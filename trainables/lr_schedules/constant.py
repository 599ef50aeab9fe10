from trainables.lr_schedules._base import Schedule

__all__ = ["Constant"]


class Constant(Schedule):
    """The lr stays what the optimizer was made with: the control arm."""
