import math

import pytest

from trainables.lr_schedules.one_cycle import OneCycle


def half_cosine(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def test_ten_steps_by_hand(learning_rates):
    lrs = learning_rates(OneCycle, lr=0.1, max_epochs=5, steps_per_epoch=2)
    low, high, lowest = 0.1 / 25, 0.1, 0.1 / 25 / 1e4
    up = [low, (low + high) / 2, high]  # three of ten steps, the peak at step 2
    down = [half_cosine(high, lowest, share / 7) for share in range(1, 8)]
    assert lrs == pytest.approx([*up, *down, lowest])  # the last value stays


def test_arguments(learning_rates):
    arguments = {"pct_start": 0.5, "div_factor": 10, "final_div_factor": 100}
    lrs = learning_rates(OneCycle, max_epochs=1, steps_per_epoch=6, **arguments)
    assert lrs[0] == pytest.approx(1 / 10)
    assert lrs[2] == pytest.approx(1)
    assert lrs[5] == pytest.approx(1 / 1000)


@pytest.mark.parametrize("pct_start", [0, 0.1, 0.2, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 5, 10])
def test_any_length_of_the_rise_is_finite(learning_rates, num_steps, pct_start):
    lrs = learning_rates(OneCycle, max_epochs=1, steps_per_epoch=num_steps, pct_start=pct_start)
    assert all(0 < lr <= 1 for lr in lrs)
    assert lrs[-1] == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pct_start": 1.0}, r"pct_start must be in \[0, 1\) \(a fraction of the steps\), got 1.0"),
        ({"div_factor": 0}, r"div_factor must be > 0 \(the lr is divided by it\), got 0"),
        ({"final_div_factor": -1}, r"final_div_factor must be > 0 \(the lr is divided by it\), got -1"),
    ],
)
def test_refuses_bad_arguments(learning_rates, arguments, message):
    with pytest.raises(ValueError, match=f"OneCycle: {message}"):
        learning_rates(OneCycle, max_epochs=1, steps_per_epoch=1, **arguments)
