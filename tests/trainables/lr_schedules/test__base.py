import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from trainables.lr_schedules._base import LRSchedule


class Inverse(LRSchedule):
    """lr / (1 + finished epochs), from the initial lr that torch stores."""

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        self.inner = LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))

    def after_epoch(self, loss, last_loss):
        self.inner.step()


def test_starts_from_the_current_lr_after_an_earlier_schedule():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    Inverse(optimizer, max_epochs=3, steps_per_epoch=1)
    optimizer.param_groups[0]["lr"] = 0.5
    schedule = Inverse(optimizer, max_epochs=3, steps_per_epoch=1)
    lrs = []
    for _ in range(3):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_epoch(0.0, 0.0)
    assert lrs == pytest.approx([1 / 2, 1 / 4, 1 / 6])
