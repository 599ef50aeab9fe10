from trainables.lr_schedules._base import LRSchedule

__all__ = ["Constant"]


class Constant(LRSchedule):
    """Constant learning rate: that of the optimizer. The control of the other schedules."""
