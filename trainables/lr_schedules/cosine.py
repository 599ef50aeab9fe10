from torch.optim.lr_scheduler import CosineAnnealingLR

from trainables.lr_schedules._base import LRSchedule

__all__ = ["Cosine"]


class Cosine(LRSchedule):
    """Cosine decay: the learning rate of step t is lr * (1 + cos(pi * t / T)) / 2.

    T is the number of steps of the whole run. Step 0 has the initial learning rate, step T - 1 a small positive one.
    There are no restarts, and the minimum is 0.

    Reference: Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        self.inner = CosineAnnealingLR(optimizer, T_max=self.num_steps)

    def after_step(self):
        if self.inner.last_epoch < self.num_steps:  # torch's count of steps; beyond T the cosine would rise again
            self.inner.step()
