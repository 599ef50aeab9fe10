import zipfile
from pathlib import Path

import numpy as np

from trainables.data.errors import DataError
from trainables.data.images import Augmentation, Images
from trainables.data.labelled import Layout, as_labels, as_pixels, check_options, make_images
from trainables.errors import one_line

__all__ = ["npz"]

# The keys of images and labels of each split: ours, MedMNIST's and Keras's. The first pair that a file has is taken.
KEYS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")),
    "validation": (("validation_images", "validation_labels"), ("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
ADVICE = "np.savez(file, images=..., labels=...) writes such a file"


def npz(
    root: str | Path | None = None,
    *,
    layout: Layout = "auto",
    max_value: float | None = None,
    augmentation: Augmentation = "none",
    validation_fraction: float = 0.1,
) -> Images:
    """Your own images and labels as arrays, in one .npz file of NumPy.

    The keys are `images` and `labels`, or, for a split of your own, `train_images`, `train_labels`, `test_images` and
    `test_labels`, and perhaps `validation_images` and `validation_labels`. The files of MedMNIST (`val_images`, ...)
    and Keras (`x_train`, `y_train`, ...) fit too. Without test images, a fixed random 20% of the images are the test
    split.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W). Whole numbers from 0 to 255 are kept. Fractions from 0 to 1 are
    stored with 8 bits: x becomes round(255 x). Labels are whole numbers from 0, of shape (N,) or (N, 1).

    Args:
        root: The .npz file, or a folder that holds it and no other .npz file.
        layout: "hwc" or "chw" says which axis is C, and then allows any number of channels. "auto" takes the axis of 1
            or 3 channels.
        max_value: The value of white, if it is not 255 for whole numbers or 1 for fractions.
        augmentation: Augmentation of training images: "none", "crop" (shifted by up to 4 pixels, padded with zeros) or
            "crop_flip" (the same, and half of them mirrored).
        validation_fraction: Fraction of the training images held out for validation, in (0, 1), if the file has no
            validation images.

    Returns:
        The dataset.

    Raises:
        ValueError: If an argument is out of range.
        DataError: If the file is missing or unreadable, lacks a key, or has arrays that are no images and labels.
            Arrays of Python objects are pickles and refused.
    """
    check_options("npz", augmentation, validation_fraction)
    if root is None:
        raise DataError("npz: --data-root must name the .npz file, got none")
    file = _find(Path(root).expanduser())
    arrays, found = _read(file)
    keys = {split: names for split in KEYS if (names := _keys_of(split, found, file))}
    try:
        images = {names[0]: arrays[names[0]] for names in keys.values()}
        pixels, white = as_pixels(images, layout=layout, max_value=max_value)
        parts = {
            split: (pixels[name], as_labels(arrays[label], len(pixels[name]), label))
            for split, (name, label) in keys.items()
        }
        return make_images(parts, max_value=white, augmentation=augmentation, validation_fraction=validation_fraction)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except ValueError as error:
        raise ValueError(f"npz: {error}") from None


def _find(root):
    """The .npz file that `root` is or holds."""
    if not root.is_dir():
        if not root.is_file():
            raise DataError(f"npz: --data-root must name an .npz file, got {root} (no such file): {ADVICE}")
        return root
    files = sorted(root.glob("*.npz"))
    if len(files) != 1:
        got = ", ".join(file.name for file in files) or "none"
        raise DataError(f"npz: {root} must hold one .npz file (or give the file itself to --data-root), got {got}")
    return files[0]


def _read(file):
    """The images and labels of a file by key, and all of its keys."""
    wanted = {key for names in KEYS.values() for pair in names for key in pair}
    try:
        if not zipfile.is_zipfile(file):  # np.load would advise to unpickle it
            raise ValueError("no zip archive, or one that is cut short")
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files if key in wanted}, arrays.files
    except Exception as error:  # a damaged zip file raises one of a dozen types
        raise DataError(
            f"{file}: must be a readable .npz file without Python objects, got {one_line(error)}"
        ) from error


def _keys_of(split, found, file):
    """The keys of a split's images and labels, the first pair that the file has; None without any."""
    for pair in KEYS[split]:
        missing = [key for key in pair if key not in found]
        if not missing:
            return pair
        if len(missing) == 1:
            raise DataError(f"{file}: must have {' and '.join(pair)}, got no {missing[0]}")
    if split == "train":
        pairs = " or ".join(" and ".join(pair) for pair in KEYS[split])
        raise DataError(f"{file}: must have the keys {pairs}, got {', '.join(found) or 'none'}: {ADVICE}")
    return None
