from torch.optim.lr_scheduler import StepLR

from trainables.lr_schedules._base import LRSchedule

__all__ = ["StepDecay"]


class StepDecay(LRSchedule):
    """Step decay: lr * gamma^(finished epochs // decay_every).

    Args:
        optimizer: See `LRSchedule`.
        max_epochs: See `LRSchedule`.
        steps_per_epoch: See `LRSchedule`.
        decay_every: Epochs between two decays.
        gamma: Factor of one decay, in (0, 1].

    Raises:
        ValueError: If an argument is out of range.

    Reference: Yun, Jo & Lee 2025, arXiv 2511.14282, appendix C: x 0.5 every 50 epochs, for ViT and UNet.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch, decay_every=50, gamma=0.5):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        if not isinstance(decay_every, int) or decay_every < 1:
            raise ValueError(f"StepDecay: decay_every must be a whole number of epochs >= 1, got {decay_every!r}")
        if not 0 < gamma <= 1:
            raise ValueError(f"StepDecay: gamma must be in (0, 1] (the learning rate never rises), got {gamma}")
        self.inner = StepLR(optimizer, step_size=decay_every, gamma=gamma)

    def after_epoch(self, loss, last_loss):
        self.inner.step()
