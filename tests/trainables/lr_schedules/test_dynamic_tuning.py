import itertools

import numpy as np
import pytest

from trainables.lr_schedules.dynamic_tuning import DynamicTuning


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (lambda epoch: 0.1, 1.06),  # 0.1: equal means, which plain sums would round differently
        (lambda epoch: 100 - epoch, 1.06),
        (lambda epoch: epoch, 0.7),
    ],
)
def test_thirty_epochs(learning_rates, loss, factor):
    lrs = learning_rates(DynamicTuning, max_epochs=30, steps_per_epoch=1, loss=loss)
    tenths = [1] * 10 + [0.1] * 10 + [0.01] * 5
    assert lrs == pytest.approx([*tenths, *[0.01 * factor] * 5, 0.01 * factor**2])


def test_compares_the_last_five_epochs_with_the_last_ten(learning_rates):
    # At the end of epoch 25 the last five losses are 2 and the five before 1: the loss rises. At 30 all ten are 2.
    lrs = learning_rates(DynamicTuning, max_epochs=300, steps_per_epoch=1, loss=lambda epoch: 1 if epoch < 20 else 2)
    assert lrs[20:35] == pytest.approx([1] * 5 + [0.7] * 5 + [0.7 * 1.06] * 5)


def test_short_run_has_the_two_divisions_only(learning_rates):
    lrs = learning_rates(DynamicTuning, max_epochs=20, steps_per_epoch=1)
    assert lrs == pytest.approx([1] * 6 + [0.1] * 7 + [0.01] * 8)  # 20 // 3 = 6, 40 // 3 = 13


def test_two_hundred_epochs_of_the_paper(learning_rates):
    lrs = learning_rates(DynamicTuning, max_epochs=200, steps_per_epoch=1, loss=lambda epoch: 1 / (1 + epoch))
    assert lrs[66] == pytest.approx(0.1 * 1.06**9)  # 25, 30, ..., 65 and the first third at 66
    assert lrs[133] == pytest.approx(0.01 * 1.06**22)  # ..., 130 and the second third at 133
    assert lrs[200] == pytest.approx(0.01 * 1.06**36)


def test_code_matches_the_loop_of_the_authors(learning_rates):
    """Rewritten from train_prune.py, which acts at the beginning of an epoch on the losses of the earlier ones."""
    last = np.random.default_rng(0).uniform(1, 2, 120).round(1)
    last[55:75] = 1.5  # equal means
    lr, expected, losses = 1.0, [], []
    for epoch in range(120):
        if epoch in (40, 80):
            lr /= 10
        if epoch > 20 and epoch % 5 == 0:
            five, ten = np.mean(losses[epoch - 6 : epoch - 1]), np.mean(losses[epoch - 11 : epoch - 1])
            if five > ten:
                lr *= 0.7
            if five < ten:
                lr *= 1.06
        expected.append(lr)
        losses.append(last[epoch])
    lrs = learning_rates(
        DynamicTuning,
        max_epochs=120,
        steps_per_epoch=1,
        loss=lambda epoch: 1.0,
        last_loss=lambda epoch: last[epoch],
        variant="code",
    )
    assert lrs[:120] == pytest.approx(expected)
    changes = {round(b / a, 2) for a, b in itertools.pairwise(expected)}
    assert {1.0, 0.7, 1.06} <= changes


def test_variants_differ_on_equal_losses(learning_rates):
    paper, code = (
        learning_rates(DynamicTuning, max_epochs=100, steps_per_epoch=1, variant=variant)
        for variant in ("paper", "code")
    )
    assert paper[26] == pytest.approx(1.06)
    assert code[26] == 1.0


def test_unknown_variant(learning_rates):
    with pytest.raises(ValueError, match=r"^DynamicTuning: variant must be one of paper, code, got 'authors'$"):
        learning_rates(DynamicTuning, max_epochs=3, steps_per_epoch=1, variant="authors")
