from torch.optim.lr_scheduler import StepLR

from trainables.lr_schedules._base import Schedule

__all__ = ["StepDecay"]


class StepDecay(Schedule):
    """lr = initial lr * gamma^(finished epochs // decay_every).

    Source: Yun, Jo & Lee 2025, appendix C: x0.5 every 50 epochs, for ViT and UNet.
    decay_every: epochs between two decays. gamma: the factor of one decay, in (0, 1]. ValueError otherwise.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch, decay_every=50, gamma=0.5):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        if not isinstance(decay_every, int) or decay_every < 1:
            raise ValueError(f"StepDecay: decay_every must be a whole number of epochs >= 1, got {decay_every!r}")
        if not 0 < gamma <= 1:
            raise ValueError(f"StepDecay: gamma must be in (0, 1] (it shrinks the lr), got {gamma}")
        self.inner = StepLR(optimizer, step_size=decay_every, gamma=gamma)

    def after_epoch(self, loss, last_loss):
        self.inner.step()
