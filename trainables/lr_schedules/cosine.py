from torch.optim.lr_scheduler import CosineAnnealingLR

from trainables.lr_schedules._base import Schedule

__all__ = ["Cosine"]


class Cosine(Schedule):
    """lr of step t = initial lr * (1 + cos(pi * t / T)) / 2, with T the steps of the whole run.

    Source: Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5, without restarts and with a minimum of 0.
    The first step has the initial lr, the last one (t = T - 1) a small positive lr; after it the lr is 0 and stays 0.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        self.inner = CosineAnnealingLR(optimizer, T_max=self.num_steps)

    def after_step(self):
        if self.inner.last_epoch < self.num_steps:  # torch counts the steps here, and would rise again beyond T
            self.inner.step()
