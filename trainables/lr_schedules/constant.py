from trainables.lr_schedules._base import LRSchedule

__all__ = ["Constant"]


class Constant(LRSchedule):
    """Constant learning rate, the control of the other schedules."""
