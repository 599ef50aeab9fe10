"""What the segmentation data sets share: the value they return, and the split of its patients."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trainables.data.images import DataError

__all__ = ["SPLITS", "Slices", "split_patients", "statistics"]

SPLITS = ("train", "validation", "test")
HELD_OUT = 0.2  # share of the patients in each of validation and test


@dataclass(frozen=True, eq=False)
class Slices:
    """Images of slices through patients, and what is to be found in them, in memory as plain uint8.

    images: uint8 (N, C, S, S), from 0 to `max_value`; one row a slice, sorted by patient and slice number.
    masks: uint8 (N, S, S), 1 where the lesion is.
    patients: str (N,), whose slice it is. numbers: int64 (N,), which of the patient's slices.
    mean, std: float64 (N, C), of the images' channels over the slice's whole examination, scaled to [0, 1]. Intensities
        of MRI have no unit: an examination is known to be bright or dark only from its other slices.
    split: "train", "validation" and "test" -> their patients; no patient is in two of them.
    channels: what each channel shows; figures show number `shown`.
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
        """The indices of a split's slices, int64, ascending."""
        return np.flatnonzero(np.isin(self.patients, self.split[split]))


def statistics(images: np.ndarray, examinations: Sequence[str], max_value: int) -> tuple[np.ndarray, np.ndarray]:
    """`mean` and `std` of `Slices`: of each slice's examination, given by name. A constant channel has 1 as its std."""
    mean, std = np.empty((2, *images.shape[:2]))
    for name in set(examinations):
        rows = np.flatnonzero(np.array(examinations) == name)
        mean[rows], std[rows] = (f(images[rows], axis=(0, 2, 3)) / max_value for f in (np.mean, np.std))
    return mean, np.where(std > 0, std, 1.0)


def split_patients(patients: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Divide patients by name, 60% to train on, 20% to validate on, 20% to test on, each part sorted.

    In the order of the names' SHA-256, which is at random as far as the images go, and the same for every seed, run,
    machine and library version. DataError for fewer than three patients.
    """
    order = sorted(set(patients), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 3:
        raise DataError(f"split: there must be at least 3 patients (one for each of {', '.join(SPLITS)}), got {order}")
    held_out = max(1, round(HELD_OUT * len(order)))
    parts = order[2 * held_out :], order[:held_out], order[held_out : 2 * held_out]
    return {name: tuple(sorted(part)) for name, part in zip(SPLITS, parts, strict=True)}
