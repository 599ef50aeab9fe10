import pytest
import torch


@pytest.fixture
def learning_rates():
    """A function that trains and returns the learning rate of each step, and the one after the last step.

    loss(epoch) is the mean loss of an epoch, from 0, and last_loss(epoch) that of its last batch.
    """

    def run(
        schedule_class, *, lr=1.0, max_epochs, steps_per_epoch, loss=lambda epoch: 1.0, last_loss=None, **arguments
    ):
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.zeros(1)
        optimizer = torch.optim.SGD([parameter], lr=lr)
        schedule = schedule_class(optimizer, max_epochs=max_epochs, steps_per_epoch=steps_per_epoch, **arguments)
        lrs = []
        for epoch in range(max_epochs):
            for _ in range(steps_per_epoch):
                lrs.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.after_step()
            schedule.after_epoch(loss(epoch), (last_loss or loss)(epoch))
        return [*lrs, optimizer.param_groups[0]["lr"]]

    return run
