import math
import time

import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import f1_score, jaccard_score

from trainables.tasks._segmentation import counts, hausdorff, tversky


def mask(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def random_masks(seed, num, size):
    """Random masks: round lesions with holes and specks, some masks empty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    masks = []
    for _ in range(num):
        middle, radius = rng.integers(0, size, 2), rng.choice([0, 1, 3, size / 4, size])
        masks.append(
            ((y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2)
            ^ (rng.random((size, size)) < rng.choice([0, 0.02]))
        )
    return np.stack(masks)


def by_definition(one, other):
    """The definition of the Hausdorff distance over all pairs of pixels."""
    distances = np.linalg.norm(np.argwhere(one)[:, None] - np.argwhere(other)[None], axis=2)
    return max(distances.min(axis=1).max(), distances.min(axis=0).max())


# ---- counts, F1, Tversky -----------------------------------------------------------------------------------------


def test_counts_by_hand():
    predicted = np.stack([mask("##.", "..."), mask("...", "...")])
    truth = np.stack([mask("#..", "#.#"), mask("...", "..#")])
    assert counts(predicted, truth).tolist() == [[1, 1, 2], [0, 0, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_f1_matches_scikit_learn(seed):
    truth, predicted = random_masks(seed, 12, 20), random_masks(seed + 100, 12, 20)
    each = counts(predicted, truth)
    assert tversky(each.sum(axis=0)) == pytest.approx(f1_score(truth.ravel(), predicted.ravel()), abs=1e-12)
    for row, one, other in zip(tversky(each), predicted, truth, strict=True):
        if one.any() or other.any():
            assert row == pytest.approx(f1_score(other.ravel(), one.ravel(), zero_division=0), abs=1e-12)
        else:
            assert row == 1


def test_tversky_with_weights_of_one_matches_scikit_learns_jaccard():
    truth, predicted = random_masks(0, 12, 20), random_masks(1, 12, 20)
    expected = jaccard_score(truth.ravel(), predicted.ravel())
    assert tversky(counts(predicted, truth).sum(axis=0), 1, 1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("tp_fp_fn", "expected"),
    [
        ((6, 10, 0), 6 / 9),  # 6 + 0.3 * 10
        ((6, 0, 10), 6 / 13),  # 6 + 0.7 * 10: a missed pixel weighs more
        ((7, 0, 0), 1.0),
        ((0, 3, 0), 0.0),
        ((0, 0, 3), 0.0),
        ((0, 0, 0), 1.0),  # nothing to find, nothing found
    ],
)
def test_tversky_by_hand(tp_fp_fn, expected):
    assert tversky(np.array(tp_fp_fn), 0.3, 0.7) == pytest.approx(expected)


# ---- Hausdorff ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (mask("#....", "....."), mask("....#", "....."), 4.0),
        (mask("#....", ".....", ".....", "....."), mask(".....", ".....", ".....", "....#"), 5.0),  # 3, 4, 5
        (mask("##..#", "....."), mask("##...", "....."), 3.0),  # the single pixel decides, in one direction only
        (mask("##...", "....."), mask("##..#", "....."), 3.0),
        (mask("#####", "#####"), mask(".....", "..#.."), math.sqrt(5)),
        (mask(".##", "##."), mask(".##", "##."), 0.0),
        (mask("...", "..."), mask("...", "..."), 0.0),  # nothing to find, nothing found
        (mask("....", "....", "....", "...."), mask(".#..", "....", "....", "...."), math.sqrt(18)),  # the diagonal
        (mask(".....", "....#", ".....", "....."), mask(".....", ".....", ".....", "....."), 5.0),
    ],
)
def test_hausdorff_by_hand(predicted, truth, expected):
    assert hausdorff(predicted, truth) == pytest.approx(expected)
    assert hausdorff(truth, predicted) == pytest.approx(expected)


@pytest.mark.parametrize("size", [7, 32])
def test_hausdorff_matches_scipy_and_the_definition(size):
    num_compared = 0
    for one, other in zip(random_masks(size, 60, size), random_masks(size + 1, 60, size), strict=True):
        if not (one.any() and other.any()):
            continue
        points = np.argwhere(one), np.argwhere(other)
        expected = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
        assert hausdorff(one, other) == pytest.approx(expected, abs=1e-9)
        if size < 10:
            assert hausdorff(one, other) == pytest.approx(by_definition(one, other), abs=1e-9)
        num_compared += 1
    assert num_compared > 20


def test_one_empty_mask_gives_the_largest_distance():
    empty, corner, opposite = np.zeros((3, 30, 40), bool)
    corner[0, 0] = opposite[29, 39] = True
    assert hausdorff(empty, corner) == hausdorff(corner, opposite) == pytest.approx(math.hypot(29, 39))


def test_speed():
    """A small validation split takes a fraction of a second."""
    truth, predicted = random_masks(0, 160, 64), random_masks(1, 160, 64)
    begin = time.process_time()
    for pair in zip(predicted, truth, strict=True):
        hausdorff(*pair)
    assert time.process_time() - begin < 1
