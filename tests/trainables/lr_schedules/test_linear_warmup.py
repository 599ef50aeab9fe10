import pytest
import torch

from trainables.lr_schedules.linear_warmup import LinearWarmup


def test_up_and_down(learning_rates):
    lrs = learning_rates(LinearWarmup, max_epochs=2, steps_per_epoch=4, num_warmup_steps=3)
    assert lrs == pytest.approx([1 / 4, 2 / 4, 3 / 4, 5 / 5, 4 / 5, 3 / 5, 2 / 5, 1 / 5, 0])


def test_from_the_peak_on_matches_transformers(learning_rates):
    from transformers import get_linear_schedule_with_warmup

    lrs = learning_rates(LinearWarmup, lr=3e-4, max_epochs=2, steps_per_epoch=150)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    theirs = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=100, num_training_steps=300)
    expected = []
    for _ in range(300):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert lrs[100:300] == pytest.approx(expected[100:])
    assert lrs[:100] == pytest.approx(expected[:100], abs=3e-4 / 100)
    assert max(lrs) == lrs[100] == 3e-4


def test_a_run_shorter_than_its_warm_up_only_rises(learning_rates):
    lrs = learning_rates(LinearWarmup, max_epochs=1, steps_per_epoch=3, num_warmup_steps=100)
    assert lrs[:3] == pytest.approx([1 / 101, 2 / 101, 3 / 101])


def test_without_warm_up_it_starts_at_the_peak(learning_rates):
    lrs = learning_rates(LinearWarmup, max_epochs=1, steps_per_epoch=4, num_warmup_steps=0)
    assert lrs == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4, 0])


@pytest.mark.parametrize("value", [-1, 0.5])
def test_refuses_bad_arguments(learning_rates, value):
    with pytest.raises(ValueError, match=f"LinearWarmup: num_warmup_steps must be a whole number >= 0, got {value}"):
        learning_rates(LinearWarmup, max_epochs=1, steps_per_epoch=1, num_warmup_steps=value)
