import numpy as np

from trainables.data.slices import Slices, examination_statistics


def test_statistics_are_numpys_over_all_slices_of_the_examination():
    images = np.random.default_rng(0).integers(0, 200, (5, 2, 8, 8), dtype=np.uint8)
    mean, std = examination_statistics(images, ["a", "b", "a", "a", "b"], 200)
    for rows in ([0, 2, 3], [1, 4]):
        for channel in range(2):
            pixels = images[rows][:, channel] / 200
            np.testing.assert_allclose(mean[rows, channel], pixels.mean())
            np.testing.assert_allclose(std[rows, channel], pixels.std())


def test_a_constant_channel_is_not_divided_by_zero():
    images = np.full((4, 3, 32, 32), 51, np.uint8)
    images[:, 1, 0] = 0
    mean, std = examination_statistics(images, ["a", "a", "b", "b"], 255)
    np.testing.assert_allclose(mean[:, 0], 0.2)
    assert std[:, [0, 2]].tolist() == [[1.0, 1.0]] * 4
    assert (std[:, 1] < 1).all()


def test_rows_are_those_of_the_patients_of_a_split():
    slices = Slices(
        images=np.zeros((5, 1, 4, 4), np.uint8),
        masks=np.zeros((5, 4, 4), np.uint8),
        patients=np.array(["A", "A", "B", "C", "C"]),
        numbers=np.array([1, 2, 1, 1, 2]),
        mean=np.zeros((5, 1)),
        std=np.ones((5, 1)),
        split={"train": ("A", "C"), "validation": ("B",), "test": ()},
        channels=("one",),
        shown=0,
    )
    assert [slices.rows(split).tolist() for split in ("train", "validation", "test")] == [[0, 1, 3, 4], [2], []]
