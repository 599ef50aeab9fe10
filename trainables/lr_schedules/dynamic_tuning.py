from statistics import fmean

from trainables.lr_schedules._base import Schedule

__all__ = ["DynamicTuning"]

VARIANTS = ("paper", "code")


class DynamicTuning(Schedule):
    """lr / 10 at one third and at two thirds of the epochs, and small corrections by the loss in between.

    Source: Yun, Jo & Lee 2025, appendix C ("Dynamic Tuning", CNN classification), factors 0.7 and 1.06, after the code
    of Lu et al., "Learning pruning-friendly networks via Frank-Wolfe", ICLR 2022 (VITA-Group, train_prune.py).
    It acts at the end of an epoch, on the number of epochs finished by then, e = 1, 2, ..., max_epochs:
        e = max_epochs // 3 and e = 2 * max_epochs // 3 (from 1 on): lr / 10;
        e = 25, 30, 35, ...: a correction by the losses of earlier epochs.
    Where both fall on one epoch both act. So a run of up to 24 epochs has the two divisions only. The sentence of the
    paper leaves open whether "after epoch 20, every five epochs" starts at 20 or 25, and where to round a third to; we
    take both from the code.
    variant: what the correction compares.
        "paper": x0.7 if the mean loss of the last 5 epochs exceeds that of the last 10, else x1.06. An epoch's loss is
            the mean over its batches.
        "code": as the code does it. An epoch's loss is that of its last batch alone; the epoch that has just ended is
            left out, so the means are those of epochs e - 5 to e - 1 and e - 10 to e - 1; equal means change nothing.
    ValueError for another variant.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch, variant="paper"):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        if variant not in VARIANTS:
            raise ValueError(f"DynamicTuning: variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.variant = variant
        self.finished = 0  # epochs
        self.losses = []  # of the last 11 epochs, the newest last

    def after_epoch(self, loss, last_loss):
        self.finished += 1
        self.losses = [*self.losses[-10:], float(loss if self.variant == "paper" else last_loss)]
        if self.finished in (self.max_epochs // 3, 2 * self.max_epochs // 3):
            self.scale_lr(0.1)
        if self.finished > 20 and self.finished % 5 == 0:
            losses = self.losses[1:] if self.variant == "paper" else self.losses[:-1]
            recent, all_ten = fmean(losses[-5:]), fmean(losses)  # fmean: equal losses have equal means, exactly
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
