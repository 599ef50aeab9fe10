from statistics import fmean

from trainables.lr_schedules._base import LRSchedule

__all__ = ["DynamicTuning"]

VARIANTS = ("paper", "code")


class DynamicTuning(LRSchedule):
    """Two divisions by 10, and corrections by the loss in between.

    The schedule acts at the end of an epoch, by the number e of epochs finished, e = 1, 2, ..., max_epochs:

    - e = max_epochs // 3 and e = 2 * max_epochs // 3 (if >= 1): divide the learning rate by 10.
    - e = 25, 30, 35, ...: multiply it by 0.7 if the loss rises, else by 1.06, as `variant` says.

    Both act if they fall on one epoch. A run of up to 24 epochs has the two divisions only. The paper leaves open
    whether "after epoch 20, every five epochs" begins at 20 or 25 and how to round a third; both are taken from the
    code.

    Args:
        optimizer: See `LRSchedule`.
        max_epochs: See `LRSchedule`.
        steps_per_epoch: See `LRSchedule`.
        variant: How losses are compared. "paper": x 0.7 if the mean loss of the last 5 epochs exceeds that of the last
            10, else x 1.06; the loss of an epoch is the mean over its batches. "code": the loss of an epoch is that of
            its last batch, the epoch that has just ended is left out (epochs e - 5 to e - 1 against e - 10 to e - 1),
            and equal means change nothing.

    Raises:
        ValueError: If variant is neither.

    Reference: Yun, Jo & Lee 2025, arXiv 2511.14282, appendix C ("Dynamic Tuning", CNN classification), after the code
    of Lu et al., "Learning pruning-friendly networks via Frank-Wolfe", ICLR 2022 (VITA-Group, train_prune.py).
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch, variant="paper"):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        if variant not in VARIANTS:
            raise ValueError(f"DynamicTuning: variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.variant = variant
        self.finished = 0  # number of epochs
        self.losses = []  # of the last 11 epochs, oldest first

    def after_epoch(self, loss, last_loss):
        self.finished += 1
        self.losses = [*self.losses[-10:], float(loss if self.variant == "paper" else last_loss)]
        if self.finished in (self.max_epochs // 3, 2 * self.max_epochs // 3):
            self.scale_lr(0.1)
        if self.finished > 20 and self.finished % 5 == 0:
            losses = self.losses[1:] if self.variant == "paper" else self.losses[:-1]
            recent, all_ten = fmean(losses[-5:]), fmean(losses)  # fmean is exact: equal losses have equal means
            if recent > all_ten:
                self.scale_lr(0.7)
            elif recent < all_ten or self.variant == "paper":
                self.scale_lr(1.06)

    def state_dict(self):
        return {**super().state_dict(), "finished": self.finished, "losses": list(self.losses)}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.finished = state["finished"]
        self.losses = list(state["losses"])
