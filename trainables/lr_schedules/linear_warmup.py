from torch.optim.lr_scheduler import LambdaLR

from trainables.lr_schedules._base import Schedule

__all__ = ["LinearWarmup"]


class LinearWarmup(Schedule):
    """Straight up to lr in num_warmup_steps steps, then straight down to 0 at the end of the run.

    lr of step t = lr * (t + 1) / (W + 1) for t < W, lr * (T - t) / (T - W) from there on, with W the warm-up steps and
    T those of the whole run. The peak is step W; a run of up to W steps ends before it.
    Source: the schedule that Yun, Jo & Lee 2025, appendix C, use for language models, with W = 100, and that
    transformers calls "linear"; its first step has lr 0 (t / W), ours 1 / (W + 1) of lr, so no step is without effect.
    num_warmup_steps: a whole number >= 0. ValueError otherwise.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch, num_warmup_steps=100):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        if not isinstance(num_warmup_steps, int) or num_warmup_steps < 0:
            raise ValueError(f"LinearWarmup: num_warmup_steps must be a whole number >= 0, got {num_warmup_steps!r}")
        num_steps = self.num_steps

        def factor(step):
            if step < num_warmup_steps:
                return (step + 1) / (num_warmup_steps + 1)
            return max(0, num_steps - step) / max(1, num_steps - num_warmup_steps)

        self.inner = LambdaLR(optimizer, factor)

    def after_step(self):
        self.inner.step()
