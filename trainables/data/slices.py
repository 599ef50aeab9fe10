"""Image slices of patients with masks, for segmentation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Slices", "examination_statistics"]


@dataclass(frozen=True, eq=False)
class Slices:
    """A dataset of image slices with masks, in memory as plain uint8.

    MRI intensities have no unit: whether an examination is bright or dark shows only in all of its slices together.
    `mean` and `std` are therefore per examination.

    Attributes:
        images: uint8 (N, C, S, S), from 0 to `max_value`, one row per slice, sorted by patient and slice number.
        masks: uint8 (N, S, S), 1 on the lesion and 0 elsewhere.
        patients: str (N,), the patient of each slice.
        numbers: int64 (N,), the number of each slice within its patient.
        mean: float64 (N, C), the mean of each channel over the slice's examination, of pixels scaled to [0, 1].
        std: float64 (N, C), the standard deviation, as `mean`.
        split: The patients of "train", "validation" and "test". No patient is in two of them.
        channels: What each channel shows.
        shown: Index of the channel that figures show.
        max_value: The pixel value that is scaled to 1.
    """

    images: np.ndarray
    masks: np.ndarray
    patients: np.ndarray
    numbers: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    split: Mapping[str, tuple[str, ...]]
    channels: tuple[str, ...]
    shown: int
    max_value: int = 255

    def rows(self, split: str) -> np.ndarray:
        """Return the indices of the slices of a split, int64, ascending."""
        return np.flatnonzero(np.isin(self.patients, self.split[split]))


def examination_statistics(
    images: np.ndarray, examinations: Sequence[str], max_value: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and standard deviation per examination and channel.

    Args:
        images: uint8 (N, C, S, S).
        examinations: Name of the examination of each slice, N.
        max_value: The pixel value that is scaled to 1.

    Returns:
        `mean` and `std` of `Slices`, float64 (N, C). The standard deviation of a constant channel is set to 1.
    """
    mean, std = np.empty((2, *images.shape[:2]))
    for name in set(examinations):
        rows = np.flatnonzero(np.array(examinations) == name)
        mean[rows], std[rows] = (f(images[rows], axis=(0, 2, 3)) / max_value for f in (np.mean, np.std))
    return mean, np.where(std > 0, std, 1.0)
