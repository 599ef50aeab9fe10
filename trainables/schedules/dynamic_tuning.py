from statistics import fmean

from trainables.schedules._base import Schedule

__all__ = ["DynamicTuning"]


class DynamicTuning(Schedule):
    """lr / 10 at one third and at two thirds of the epochs, and small corrections by the loss in between.

    Source: Yun, Jo & Lee 2025, appendix C ("Dynamic Tuning", CNN classification), factors 0.7 and 1.06.
    It acts at the end of an epoch, on the number of epochs finished by then, e = 1, 2, ..., max_epochs:
        e = max_epochs // 3 and e = 2 * max_epochs // 3 (from 1 on): lr / 10;
        e = 25, 30, 35, ...: x0.7 if the mean loss of the last 5 epochs exceeds that of the last 10, else x1.06.
    Where both fall on one epoch both act. So a run of up to 24 epochs has the two divisions only. The source leaves
    open whether "after epoch 20, every five epochs" starts at 20 or 25, and where to round a third to.
    """

    def __init__(self, optimizer, *, max_epochs, steps_per_epoch):
        super().__init__(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch)
        self.finished = 0  # epochs
        self.losses = []  # of the last 10 epochs, the newest last

    def after_epoch(self, loss):
        self.finished += 1
        self.losses = [*self.losses[-9:], float(loss)]
        if self.finished in (self.max_epochs // 3, 2 * self.max_epochs // 3):
            self.scale_lr(0.1)
        if self.finished > 20 and self.finished % 5 == 0:
            rising = fmean(self.losses[-5:]) > fmean(self.losses)  # fmean: equal losses have equal means, exactly
            self.scale_lr(0.7 if rising else 1.06)

    def state_dict(self):
        return {**super().state_dict(), "finished": self.finished, "losses": list(self.losses)}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.finished = state["finished"]
        self.losses = list(state["losses"])
