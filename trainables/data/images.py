"""Labelled images for classification."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables.data.splits import split_indices

__all__ = ["Augmentation", "Images"]

Augmentation = Literal["none", "crop", "crop_flip"]


@dataclass(frozen=True, eq=False)
class Images:
    """A dataset of labelled images, in memory as plain uint8.

    Ray shares one copy among all trials of a node.

    Attributes:
        train_images: uint8 (N, C, H, W), from 0 (black) to `max_value` (white).
        train_labels: int64 (N,), from 0 to `num_classes` - 1.
        test_images: As `train_images`, of the test split.
        test_labels: As `train_labels`, of the test split.
        num_classes: Number of classes.
        max_value: The pixel value that is scaled to 1.
        augmentation: Augmentation of training images: "none", "crop" (a random crop after padding with zeros) or
            "crop_flip" (a random crop, and half of the images mirrored).
        validation_fraction: Fraction of the training images that `split` holds out for validation.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    max_value: int
    augmentation: Augmentation
    validation_fraction: float

    def split(self, train_size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return (training, validation) indices of `train_images`; see `split_indices`."""
        return split_indices(len(self.train_images), self.validation_fraction, train_size)
