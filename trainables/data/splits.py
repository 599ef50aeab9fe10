"""Fixed splits: every run validates and tests on the same examples."""

import hashlib
from collections.abc import Iterable

import numpy as np

from trainables.data.errors import DataError

__all__ = ["SPLITS", "check_validation", "split_indices", "split_last", "split_patients"]

SPLITS = ("train", "validation", "test")
SEED = 20_251_114  # never changes: results on a validation split are comparable only on the same examples
PATIENTS_HELD_OUT = 0.2  # fraction of the patients in each of validation and test


def split_indices(num: int, validation_fraction: float, train_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Split range(num) into training and validation indices, both shuffled.

    The shuffle depends on `num` alone, so every seed, run and `train_size` validates on the same examples.

    Args:
        num: Number of examples.
        validation_fraction: Fraction of the examples to hold out, rounded to a whole number of examples.
        train_size: Number of training indices to keep, the first ones. None keeps all of them.

    Returns:
        The training indices and the validation indices, int64.

    Raises:
        ValueError: If train_size is below 1 or above the number of training indices.
    """
    order = np.random.default_rng(SEED).permutation(num)
    num_validation = round(num * validation_fraction)
    validation, training = order[:num_validation], order[num_validation:]
    if train_size is None:
        return training, validation
    if not 1 <= train_size <= len(training):
        raise ValueError(
            f"split: train_size must be from 1 to {len(training)} ({num} training examples, of which "
            f"{num_validation} are held out for validation), got {train_size}"
        )
    return training[:train_size], validation


def check_validation(where: str, what: str, num: int, validation_fraction: float) -> None:
    """Raise ValueError unless the fraction leaves examples for both training and validation."""
    if not 0 < validation_fraction < 1:
        raise ValueError(f"{where}: validation_fraction must be in (0, 1), got {validation_fraction!r}")
    if not 0 < (num_validation := round(num * validation_fraction)) < num:
        raise ValueError(
            f"{where}: validation_fraction must leave {what} for both training and validation, got "
            f"{validation_fraction!r} of {num}, which is {num_validation}"
        )


def split_last(
    num: int, validation_fraction: float, train_size: int | None = None, *, subset: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Split range(num) into shuffled training indices and the last ones for validation.

    For datasets with a validation split of their own. See `split_indices`.

    Args:
        subset: Whether only the first validation indices will be used. They are then shuffled too, because examples may
            be stored by class; otherwise they keep their order.
    """
    num_validation = round(num * validation_fraction)
    training, _ = split_indices(num - num_validation, 0.0, train_size)
    validation = split_indices(num_validation, 0.0)[0] if subset else np.arange(num_validation)
    return training, num - num_validation + validation


def split_patients(patients: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Split patients by name: 60% for training, 20% for validation, 20% for testing.

    Patients are ordered by the SHA-256 of their name. That order is unrelated to the images and the same for every
    seed, run, machine and library version.

    Args:
        patients: Names; duplicates count once.

    Returns:
        The sorted names of each split, by "train", "validation" and "test".

    Raises:
        DataError: If there are fewer than three patients.
    """
    order = sorted(set(patients), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(order) < 3:
        raise DataError(f"split: there must be at least 3 patients (one for each of {', '.join(SPLITS)}), got {order}")
    held_out = max(1, round(PATIENTS_HELD_OUT * len(order)))
    parts = order[2 * held_out :], order[:held_out], order[held_out : 2 * held_out]
    return {name: tuple(sorted(part)) for name, part in zip(SPLITS, parts, strict=True)}
