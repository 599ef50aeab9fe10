"""Users' own arrays of images and labels, checked and made into a dataset."""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from trainables.data.errors import DataError
from trainables.data.images import Augmentation, Images, SplitImages
from trainables.data.splits import split_indices

__all__ = ["TEST_FRACTION", "Layout", "as_labels", "as_pixels", "check_options", "make_images"]

Layout = Literal["auto", "hwc", "chw"]
TEST_FRACTION = 0.2  # of all images, where there is no test split


def check_options(where: str, augmentation: str, validation_fraction: float) -> None:
    """Raise ValueError if an argument that all datasets of users' own images have is out of range."""
    if augmentation not in get_args(Augmentation):
        raise ValueError(
            f"{where}: augmentation must be one of {', '.join(get_args(Augmentation))}, got {augmentation!r}"
        )
    if not 0 < validation_fraction < 1:
        raise ValueError(f"{where}: validation_fraction must be in (0, 1), got {validation_fraction!r}")


def as_pixels(
    arrays: Mapping[str, np.ndarray], *, layout: Layout = "auto", max_value: float | None = None
) -> tuple[dict[str, np.ndarray], int]:
    """Convert arrays of numbers to uint8 pixels (N, C, H, W).

    Whole numbers up to 255 are kept. Other numbers are scaled to 0 .. 255 and rounded: x / max_value * 255.

    Args:
        arrays: Images by name; the names are for error messages. Shape (N, H, W) is grey. Shapes (N, H, W, C) and
            (N, C, H, W) are told apart by the axis of 1 or 3 channels.
        layout: "hwc" or "chw" says which axis is C, and then allows any number of channels.
        max_value: The value of white. None: 255 for whole numbers, 1 for fractions.

    Returns:
        The images by the same names, and the pixel value of white.

    Raises:
        ValueError: If an argument is out of range.
        DataError: If an array is not one of images, has a value outside 0 .. max_value, or the images of two arrays
            have different shapes.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
    if max_value is not None and not 0 < max_value < np.inf:
        raise ValueError(f"max_value must be above 0 and finite, got {max_value!r}")
    arrays = {name: _planes(array, layout, name) for name, array in arrays.items()}
    shapes = {name: array.shape[1:] for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(f"images must have the same channels, height and width in all splits, got {got}")
    whites = {name: max_value or (255 if is_whole(array) else 1) for name, array in arrays.items()}
    for name, array in arrays.items():
        _check_range(array, whites[name], name)
    white = max_value or 255
    if all(map(is_whole, arrays.values())) and white <= 255 and float(white).is_integer():
        return {name: np.ascontiguousarray(array, np.uint8) for name, array in arrays.items()}, int(white)
    scaled = {name: np.rint(array * (255 / whites[name])) for name, array in arrays.items()}
    return {name: np.ascontiguousarray(array, np.uint8) for name, array in scaled.items()}, 255


def is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "iu"


def _planes(array: np.ndarray, layout: Layout, name: str) -> np.ndarray:
    """The images as (N, C, H, W)."""
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name} must be an array of whole numbers or fractions, got {array.dtype}")
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(
            f"{name} must have the shape (N, height, width), (N, height, width, channels) or (N, channels, height, "
            f"width), none of them 0, got {array.shape}"
        )
    if array.ndim == 3:
        return array[:, None]
    if layout == "auto":
        found = [each for each, axis in (("chw", 1), ("hwc", 3)) if array.shape[axis] in (1, 3)]
        if len(found) != 1:
            raise DataError(
                f"{name} must have 1 or 3 channels, either in the second or in the last axis (or say which axis it is: "
                f"--data layout=chw or --data layout=hwc), got the shape {array.shape}"
            )
        layout = found[0]  # type: ignore[assignment]
    return array.transpose(0, 3, 1, 2) if layout == "hwc" else array


def _check_range(array: np.ndarray, white: float, name: str) -> None:
    wrong = ~((array >= 0) & (array <= white))  # NaN is wrong too
    if wrong.any():
        row = np.unravel_index(int(wrong.argmax()), wrong.shape)
        kind = "whole numbers" if is_whole(array) else "fractions"
        raise DataError(
            f"{name} must be {kind} from 0 to {white:g} (the value of white, --data max_value=...), got "
            f"{array[row]} in image {row[0]}"
        )


def as_labels(labels: np.ndarray, num_images: int, name: str) -> np.ndarray:
    """Labels as int64 (N,). A shape (N, 1) is taken for (N,).

    Raises:
        DataError: If they are not whole numbers >= 0, one for each image.
    """
    if labels.dtype.kind not in "iub":
        raise DataError(f"{name} must be whole numbers, got {labels.dtype}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (num_images,):
        raise DataError(f"{name} must have one label for each of {num_images} images, got the shape {labels.shape}")
    if (negative := labels < 0).any():
        row = int(negative.argmax())
        raise DataError(f"{name} must be numbered from 0, got {labels[row]} in row {row}")
    return labels.astype(np.int64)


def make_images(
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    max_value: int,
    augmentation: Augmentation,
    validation_fraction: float,
) -> Images:
    """A dataset of the images and labels of its splits.

    Without "test", a fixed random 20% of the training images are the test split. With "validation", that split
    validates; otherwise `validation_fraction` of the training images do.

    Args:
        parts: uint8 images (N, C, H, W) and int64 labels (N,) of "train" and perhaps "validation" and "test".
        max_value: The pixel value that is scaled to 1.

    Raises:
        DataError: If the training images lack a label, another split has a label that they lack, or a split is empty.
    """
    images, labels = parts["train"]
    found = np.unique(labels)
    num_classes = max(2, int(found[-1]) + 1)
    if len(found) < num_classes:
        raise DataError(
            f"training images must have every label from 0 to {num_classes - 1}, got {len(found)} of these "
            f"{num_classes}"
        )
    for name, (_, others) in parts.items():
        if others.max() >= num_classes:
            row = int((others >= num_classes).argmax())
            raise DataError(
                f"{name} labels must be from 0 to {num_classes - 1}, as in training, got {others[row]} in row {row}"
            )
    if "test" in parts:
        test = parts["test"]
    else:
        kept, held_out = split_indices(len(images), TEST_FRACTION)
        test = images[held_out], labels[held_out]
        images, labels = images[kept], labels[kept]
    common = {
        "test_images": test[0],
        "test_labels": test[1],
        "num_classes": num_classes,
        "max_value": max_value,
        "augmentation": augmentation,
    }
    if "validation" in parts:
        held_out_images, held_out_labels = parts["validation"]
        images, labels = np.concatenate([images, held_out_images]), np.concatenate([labels, held_out_labels])
        validation_fraction = len(held_out_images) / len(images)
    num_validation = round(len(images) * validation_fraction)
    if not (0 < num_validation < len(images) and len(test[0])):
        got = f"{len(images) - num_validation}, {num_validation} and {len(test[0])}"
        raise DataError(f"there must be images for training, validation and testing, got {got}")
    make = SplitImages if "validation" in parts else Images
    return make(train_images=images, train_labels=labels, validation_fraction=validation_fraction, **common)  # type: ignore[arg-type]
