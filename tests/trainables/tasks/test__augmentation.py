import math

import numpy as np
import pytest
import torch

from trainables.tasks._augmentation import crop_flip, warp


def test_crop_flip_is_numpys_for_each_image():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (40, 3, 8, 6), dtype=np.uint8)
    shifts, flips = rng.integers(0, 9, (40, 2)), rng.random(40) < 0.5
    shifts[:4] = [[0, 0], [8, 8], [4, 4], [0, 8]]
    expected = []
    for image, (top, left), flip in zip(images, shifts, flips, strict=True):
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
        crop = padded[:, top : top + 8, left : left + 6]
        expected.append(crop[:, :, ::-1] if flip else crop)
    changed = crop_flip(torch.from_numpy(images), torch.from_numpy(shifts), torch.from_numpy(flips))
    assert changed.dtype == torch.uint8
    np.testing.assert_array_equal(changed, np.stack(expected))


def warp_all(images, masks, mirrored, degrees, scale):
    n = len(images)
    return warp(
        images, masks, torch.full((n,), mirrored), torch.full((n,), math.radians(degrees)), torch.full((n,), scale)
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_warp_by_quarter_turns_is_rot90(mirrored, quarters):
    rng = np.random.default_rng(0)
    images, masks = rng.random((4, 3, 8, 8), np.float32), (rng.random((4, 8, 8)) < 0.4).astype(np.float32)
    expected = [np.rot90(a[..., ::-1] if mirrored else a, quarters, axes=(-2, -1)) for a in (images, masks)]
    changed = warp_all(*map(torch.from_numpy, (images, masks)), mirrored, 90.0 * quarters, 1.0)
    np.testing.assert_allclose(changed[0], expected[0], atol=1e-5)
    np.testing.assert_array_equal(changed[1], expected[1])


def test_warp_scales_about_the_centre():
    square = torch.zeros(1, 1, 64, 64)
    square[..., 24:40, 24:40] = 255
    for scale, expected in ((1.0, 16**2), (1.5, 24**2), (0.5, 8**2)):
        image, mask = warp_all(square, square[:, 0] / 255, False, 0.0, scale)
        assert mask.sum() == expected
        assert image.sum().item() / 255 == pytest.approx(expected, rel=0.02)
        np.testing.assert_array_equal(mask, mask.flip(1, 2))
