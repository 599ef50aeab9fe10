from torch.optim.lr_scheduler import LambdaLR

from trainables.lr_schedules._base import LRSchedule

__all__ = ["LinearWarmup"]


class LinearWarmup(LRSchedule):
    """Linear warm-up to lr, then linear decay to 0 at the end of the run.

    The learning rate of step t is lr * (t + 1) / (W + 1) for t < W and lr * (T - t) / (T - W) afterwards, with W
    warm-up steps and T steps in the whole run. It is highest at step W; a run of W steps or fewer ends before that.

    transformers calls this schedule "linear". Its first step has a learning rate of 0 (t / W); here it is lr / (W + 1),
    so that no step is without effect.

    Args:
        optimizer: See `LRSchedule`.
        max_epochs: See `LRSchedule`.
        steps_per_epoch: See `LRSchedule`.
        num_warmup_steps: W, a whole number >= 0.

    Raises:
        ValueError: If num_warmup_steps is below 0.

    Reference: Yun, Jo & Lee 2025, arXiv 2511.14282, appendix C (language models), with W = 100.
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
