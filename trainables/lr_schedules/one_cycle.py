from torch.optim.lr_scheduler import OneCycleLR

from trainables.lr_schedules._base import Schedule

__all__ = ["OneCycle"]


class OneCycle(Schedule):
    """Up from lr / div_factor to lr, then down to lr / (div_factor * final_div_factor), both along half a cosine.

    Source: Smith & Topin, "Super-Convergence", 2017, in the form of torch's OneCycleLR, whose names and defaults the
    arguments have; the optimizer's lr is its max_lr. Momentum is left to the optimizer (cycle_momentum=False).
    pct_start: the share of the steps spent going up, in [0, 1). The last step has the lowest lr, which then stays.
    div_factor, final_div_factor: > 0. ValueError otherwise.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch, pct_start=0.3, div_factor=25.0, final_div_factor=1e4):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        if not 0 <= pct_start < 1:
            raise ValueError(f"OneCycle: pct_start must be in [0, 1) (a share of the steps), got {pct_start}")
        for name, value in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not value > 0:
                raise ValueError(f"OneCycle: {name} must be > 0 (the lr is divided by it), got {value}")
        pct_start = float(pct_start)
        if (
            pct_start * self.num_steps == 1
        ):  # torch would divide by the zero steps between step 0 and the peak at step 0
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
        if self.inner.last_epoch < self.num_steps - 1:  # torch counts the steps here; its step beyond the last rises
            self.inner.step()
