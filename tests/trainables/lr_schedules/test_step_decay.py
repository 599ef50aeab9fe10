import pytest

from trainables.lr_schedules.step_decay import StepDecay


def test_halves_every_fifty_epochs(learning_rates):
    lrs = learning_rates(StepDecay, lr=1e-3, max_epochs=200, steps_per_epoch=2)
    assert lrs == [1e-3] * 100 + [5e-4] * 100 + [2.5e-4] * 100 + [1.25e-4] * 100 + [6.25e-5]


def test_arguments(learning_rates):
    lrs = learning_rates(StepDecay, max_epochs=5, steps_per_epoch=1, decay_every=2, gamma=0.1)
    assert lrs == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay_every": 0}, "decay_every must be a whole number of epochs >= 1, got 0"),
        ({"gamma": 0}, r"gamma must be in \(0, 1\] \(the learning rate never rises\), got 0"),
        ({"gamma": 1.5}, r"gamma must be in \(0, 1\] \(the learning rate never rises\), got 1.5"),
    ],
)
def test_refuses_bad_arguments(learning_rates, arguments, message):
    with pytest.raises(ValueError, match=f"StepDecay: {message}"):
        learning_rates(StepDecay, max_epochs=1, steps_per_epoch=1, **arguments)
