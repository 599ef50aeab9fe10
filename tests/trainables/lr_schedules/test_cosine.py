import math

import pytest
import torch

from trainables.lr_schedules.cosine import Cosine


def test_four_steps_by_hand(learning_rates):
    half = math.sqrt(2) / 2  # cos(pi / 4)
    lrs = learning_rates(Cosine, lr=2.0, max_epochs=2, steps_per_epoch=2)
    assert lrs == pytest.approx([2, 1 + half, 1, 1 - half, 0], abs=1e-15)


def test_long_run_follows_the_closed_form(learning_rates):
    lrs = learning_rates(Cosine, max_epochs=20, steps_per_epoch=100)
    assert lrs == pytest.approx([(1 + math.cos(math.pi * t / 2000)) / 2 for t in range(2001)], abs=1e-12)
    assert lrs[-1] == 0


def test_stays_at_zero_beyond_the_run():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Cosine(optimizer, max_epochs=1, steps_per_epoch=3)
    for _ in range(6):
        optimizer.step()
        schedule.after_step()
    assert optimizer.param_groups[0]["lr"] == 0
