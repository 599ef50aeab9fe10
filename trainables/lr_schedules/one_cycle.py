from torch.optim.lr_scheduler import OneCycleLR

from trainables.lr_schedules._base import LRSchedule

__all__ = ["OneCycle"]


class OneCycle(LRSchedule):
    """One cycle: up to lr, then down to a small fraction of it.

    It begins at lr / div_factor and ends at lr / (div_factor * final_div_factor). Both parts follow half a cosine. This
    is torch's OneCycleLR with its names and defaults; the optimizer's learning rate is its max_lr. Momentum is not
    cycled.

    Args:
        optimizer: See `LRSchedule`.
        max_epochs: See `LRSchedule`.
        steps_per_epoch: See `LRSchedule`.
        pct_start: Fraction of the steps in which the learning rate rises, in [0, 1).
        div_factor: Ratio of the highest to the first learning rate, > 0.
        final_div_factor: Ratio of the first to the last learning rate, > 0.

    Raises:
        ValueError: If an argument is out of range.

    Reference: Smith & Topin, "Super-Convergence", 2017, arXiv 1708.07120.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch, pct_start=0.3, div_factor=25.0, final_div_factor=1e4):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        if not 0 <= pct_start < 1:
            raise ValueError(f"OneCycle: pct_start must be in [0, 1) (a fraction of the steps), got {pct_start}")
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not value > 0:
                raise ValueError(f"OneCycle: {name} must be > 0 (the lr is divided by it), got {value}")
        pct_start = float(pct_start)
        if pct_start * self.num_steps == 1:  # the peak would be step 0, and torch would divide by the 0 steps before it
            pct_start *= 1 + 1e-9
        self.inner = OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=self.num_steps,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            cycle_momentum=False,
        )

    def after_step(self):
        if self.inner.last_epoch < self.num_steps - 1:  # torch's count of steps; one more would raise an error
            self.inner.step()
