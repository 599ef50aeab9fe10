"""Labelled images for classification."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from trainables.data.splits import check_validation, split_indices, split_last

__all__ = ["Augmentation", "Images", "SplitImages"]

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

    def __post_init__(self) -> None:
        """Check what a dataset returned.

        Raises:
            ValueError: If an array has another type, shape or range.
        """
        for split in ("train", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            for name, array, dtype, ndim in (("images", images, np.uint8, 4), ("labels", labels, np.int64, 1)):
                if not (isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == ndim):
                    is_array = isinstance(array, np.ndarray)
                    got = f"{array.dtype} of shape {array.shape}" if is_array else type(array).__name__
                    shape = "(N, C, H, W)" if ndim == 4 else "(N,)"
                    raise ValueError(f"Images: {split}_{name} must be {dtype.__name__} {shape}, got {got}")
            if len(images) != len(labels) or not len(labels):
                raise ValueError(
                    f"Images: {split}_images and {split}_labels must have the same length, above 0, got {len(images)} "
                    f"and {len(labels)}"
                )
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise ValueError(
                    f"Images: {split}_labels must be from 0 to num_classes - 1 = {self.num_classes - 1}, got "
                    f"{labels.min()} to {labels.max()}"
                )
            if not 0 < self.max_value <= 255 or images.max() > self.max_value:
                raise ValueError(
                    f"Images: max_value must be from the highest pixel of {split}_images, {images.max()}, to 255 (the "
                    f"value of white), got {self.max_value!r}"
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"Images: train_images and test_images must have one shape, got {self.train_images.shape[1:]} and "
                f"{self.test_images.shape[1:]}"
            )
        if self.augmentation not in get_args(Augmentation):
            raise ValueError(
                f"Images: augmentation must be one of {', '.join(get_args(Augmentation))}, got {self.augmentation!r}"
            )
        check_validation("Images", "images", len(self.train_labels), self.validation_fraction)

    def split(self, train_size: int | None = None, *, subset: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return (training, validation) indices of `train_images`; see `split_indices`."""
        return split_indices(len(self.train_images), self.validation_fraction, train_size)


class SplitImages(Images):
    """Images with a validation split of their own: the last `validation_fraction` of the training images."""

    def split(self, train_size: int | None = None, *, subset: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return (training, validation) indices of `train_images`; see `split_last`."""
        return split_last(len(self.train_images), self.validation_fraction, train_size, subset=subset)
