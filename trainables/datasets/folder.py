import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainables.data.images import (
    DataError,
    Images,
    check_labels,
    decode,
    find_parquet,
    no_data,
    read_columns,
    split,
)
from trainables.errors import one_line

__all__ = ["folder"]

SUFFIXES = (".png", ".jpg", ".jpeg")
TEST = ("test", "val", "valid", "validation")  # what the split that is not trained on may be called; the first there is
TEST_FRACTION = 0.2  # of all images, where there is none
AUGMENTATIONS = ("none", "crop", "crop_flip")


def folder(root=None, *, image_size=None, channels=3, augmentation="crop_flip", validation_fraction=0.1):
    """Your own images, from a folder: `root/train/CLASS/*.png` and `root/test/CLASS/*.png`, or parquet files.

    Files of images end in .png, .jpg or .jpeg, in capitals or not; others are passed over. Classes are numbered in the
    order of their names. The test folder may also be called val, valid or validation; where there is none, a fixed 20%
    of the images are the test split. The validation split is a fixed share of the training images.
    Parquet files are the Hugging Face hub's: `train.parquet` or `train-*.parquet`, and test likewise, in `root` or
    `root/data`, with the columns `image` or `img` and `label`, numbers from 0 (see `read_parquet`).
    image_size: every image is resized to so many pixels square, bilinear and antialiased, whatever its aspect. None:
        images stay as they are, and must all be of the size of the first.
    channels: 3 makes every image RGB, 1 grey. Images must have at most 8 bits a channel.
    augmentation: "none", "crop" (moved by up to 4 pixels, zeros come in) or "crop_flip" (and mirrored, half of them).
    validation_fraction: share of the training images to validate on, in (0, 1).
    All images are in memory, channels * image_size^2 bytes each.
    ValueError for a bad argument. DataError if there is no data, a file (it is named) is no such image, a class has no
    image, or the splits do not have the same classes.
    """
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"folder: image_size must be a whole number of pixels >= 1, got {image_size!r}")
    if channels not in (1, 3):
        raise ValueError(f"folder: channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"folder: augmentation must be one of {', '.join(AUGMENTATIONS)}, got {augmentation!r}")
    if not 0 < validation_fraction < 1:
        raise ValueError(f"folder: validation_fraction must be in (0, 1), got {validation_fraction!r}")
    if root is None:
        raise DataError("folder: --data-root must name the folder with the images, got none")
    root = Path(root).expanduser()
    samples = _in_folders(root) if (root / "train").is_dir() else _in_parquet(root)
    num_classes = 1 + max(sample.label for sample in samples["train"])
    if "test" not in samples:
        parts = split(len(samples["train"]), TEST_FRACTION)
        train, test = ([samples["train"][i] for i in part] for part in parts)
        samples = {"train": train, "test": test}
    num_validation = round(len(samples["train"]) * validation_fraction)
    if not 0 < num_validation < len(samples["train"]):
        got = f"{len(samples['train'])} to train and validate on, of which {num_validation} to validate on"
        raise DataError(f"folder: {root} must hold images enough for each split, got {got}")
    size = (image_size, image_size) if image_size else _size(samples["train"][0])
    train, test = (_read(samples[name], (channels, *size), resize=bool(image_size)) for name in ("train", "test"))
    return Images(
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        num_classes=num_classes,
        max_value=255,
        augmentation=augmentation,
        validation_fraction=validation_fraction,
    )


class Sample(NamedTuple):
    where: str
    data: Path | bytes | None  # None stands in a parquet file for an image that is not there
    label: int

    def read(self):
        try:
            return self.data.read_bytes() if isinstance(self.data, Path) else self.data
        except OSError as error:
            raise DataError(f"{self.where}: must be a readable file, got {one_line(error)}") from error


def _in_folders(root):
    names = ["train", *[name for name in TEST if (root / name).is_dir()][:1]]
    classes = {name: sorted(path.name for path in _visible(root / name) if path.is_dir()) for name in names}
    if len(classes["train"]) < 2:
        raise DataError(
            f"folder: {root / 'train'} must hold a folder for each class, two or more, got {classes['train']}"
        )
    for name in names[1:]:
        differ = sorted(set(classes["train"]) ^ set(classes[name]))
        if differ:
            raise DataError(
                f"folder: {root / 'train'} and {root / name} must hold the same classes, got {differ} in one only"
            )
    samples: dict[str, list[Sample]] = {}
    for part, name in zip(("train", "test"), names, strict=False):  # one name where there is no test folder
        samples[part] = []
        for label, class_name in enumerate(classes[name]):
            files = sorted(path for path in _visible(root / name / class_name) if path.suffix.lower() in SUFFIXES)
            if not files:
                raise DataError(f"folder: {root / name / class_name} must hold {', '.join(SUFFIXES)} files, got none")
            samples[part] += [Sample(str(file), file, label) for file in files]
    return samples


def _visible(path):
    return (child for child in path.iterdir() if not child.name.startswith("."))


def _in_parquet(root):
    files = find_parquet("folder", [root, root / "data"], test=TEST)
    if files is None:
        raise no_data(
            "folder", root, "train/CLASS/ folders of images", ["data"], "name another folder with --data-root"
        )
    columns = {name: list(read_columns(files[name])) for name in ("train", "test")}
    found = {label for _, _, labels in columns["train"] for label in labels if label is not None}
    num_classes = max(2, 1 + max(found, default=0))
    samples = {}
    for name, parts in columns.items():
        for file, _, labels in parts:
            check_labels(file, labels, num_classes)
        samples[name] = [
            Sample(f"{file}, row {row}", data, label)
            for file, encoded, labels in parts
            for row, (data, label) in enumerate(zip(encoded, labels, strict=True))
        ]
    if len(found) < num_classes:
        got = f"{len(found)} of these {num_classes}"
        raise DataError(
            f"folder: {root} must hold training images of every label from 0 to {num_classes - 1}, got {got}"
        )
    return samples


def _size(sample):
    """(height, width) of an image."""
    from PIL import Image

    data = sample.read()
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return image.height, image.width
    except Exception as error:
        raise DataError(f"{sample.where}: image must be a readable JPEG or PNG, got {one_line(error)}") from error


def _read(samples, shape, *, resize):
    """Images (N, *shape) and labels (N,)."""
    images = np.empty((len(samples), *shape), np.uint8)
    advice = "" if resize else ": --data image_size=N makes all images N pixels square"

    def read_one(i):
        sample = samples[i]
        images[i] = decode(sample.read(), shape, where=sample.where, convert=True, resize=resize, advice=advice)

    with ThreadPoolExecutor() as pool:  # a photo's decoder does not hold the GIL
        list(pool.map(read_one, range(len(samples))))  # raises the first error in the samples' order
    return images, np.array([label for _, _, label in samples], np.int64)
