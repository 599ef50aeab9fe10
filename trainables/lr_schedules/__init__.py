"""Learning-rate schedules, one per file.

To add a schedule, write `my_name.py` in this folder with a class `MyName(LRSchedule)` and `__all__ = ["MyName"]`: the
class name without capitals is the file name without underscores. The file is found by its name; there is no list to add
it to.

    class MyName(LRSchedule):
        def __init__(self, optimizer, *, max_epochs, steps_per_epoch, decay=0.5):
            super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
            self.inner = ...

- Arguments beyond max_epochs and steps_per_epoch are keyword-only with defaults. Users set them by `--lr-sched
  decay=0.1`.
- Either assign one of torch's schedulers to `self.inner` and step it in `after_step` or `after_epoch`; its state is
  then saved. Or change the learning rates by `scale_lr` and add what that needs to `state_dict` and `load_state_dict`.
- The learning rate of every step is positive and finite, for any length of the run. Parameter groups keep their ratio.
- A run that stops, saves, loads and continues has exactly the learning rates of one that never stopped.
- An argument out of range raises a ValueError: `MyName: decay must be in (0, 1], got 2`.

`pytest tests/trainables/lr_schedules/test_lr_schedules_contract.py` tests every file of this folder.
"""

BASE = "trainables.lr_schedules._base:LRSchedule"  # of every class
