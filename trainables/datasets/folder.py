from pathlib import Path
from typing import cast

from trainables.data.errors import DataError
from trainables.data.images import Augmentation, Images
from trainables.data.labelled import check_options, make_images
from trainables.data.parquet import check_labels, find_parquet, no_data, read_columns
from trainables.data.samples import Sample, decode_samples, image_size_of

__all__ = ["folder"]

SUFFIXES = (".png", ".jpg", ".jpeg")
VALIDATION = ("val", "valid", "validation")  # names of the validation split; the first one that exists is taken


def folder(
    root: str | Path | None = None,
    *,
    image_size: int | None = None,
    channels: int = 3,
    augmentation: Augmentation = "crop_flip",
    validation_fraction: float = 0.1,
) -> Images:
    """Your own images, in one folder per class or in parquet files.

    Image files are `root/train/CLASS/*.png` and `root/test/CLASS/*.png`. They end in .png, .jpg or .jpeg, in upper or
    lower case; other files are ignored. Classes are numbered in the order of their names.

    Parquet files are those of the Hugging Face hub: `train.parquet` or `train-*.parquet`, and test likewise, in `root`
    or `root/data`, with the columns `image` or `img` and `label`, numbered from 0 (see `read_parquet`).

    A third split called val, valid or validation is the validation split. Without a split called test, it is the test
    split. With neither, a fixed random 20% of the images in folders are the test split.

    All images are kept in memory, channels * image_size^2 bytes each.

    Args:
        root: Folder with the images.
        image_size: Height and width, in pixels, that every image is resized to (bilinear with antialiasing, without
            keeping the aspect ratio). None keeps the size, which must then be the same for all images.
        channels: 3 converts every image to RGB, 1 to grey. Images must have at most 8 bits a channel.
        augmentation: Augmentation of training images: "none", "crop" (shifted by up to 4 pixels, padded with zeros) or
            "crop_flip" (the same, and half of them mirrored).
        validation_fraction: Fraction of the training images held out for validation, in (0, 1), if there are no
            validation images.

    Returns:
        The dataset.

    Raises:
        ValueError: If an argument is out of range.
        DataError: If there is no data, a file is not such an image, a class has no image, or the splits have different
            classes.
    """
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"folder: image_size must be a whole number of pixels >= 1, got {image_size!r}")
    if channels not in (1, 3):
        raise ValueError(f"folder: channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    check_options("folder", augmentation, validation_fraction)
    if root is None:
        raise DataError("folder: --data-root must name the folder with the images, got none")
    root = Path(root).expanduser()
    samples = _in_folders(root) if (root / "train").is_dir() else _in_parquet(root)
    size = (image_size, image_size) if image_size else image_size_of(samples["train"][0])
    parts = {
        split: decode_samples(of_split, (channels, *size), resize=bool(image_size))
        for split, of_split in samples.items()
    }
    try:
        return make_images(parts, max_value=255, augmentation=augmentation, validation_fraction=validation_fraction)
    except DataError as error:
        raise DataError(f"folder: {root}: {error}") from None


def _in_folders(root):
    held_out = next((name for name in VALIDATION if (root / name).is_dir()), None)
    has_test = (root / "test").is_dir()
    found = {
        "train": "train",
        "validation": held_out if has_test else None,
        "test": "test" if has_test else held_out,
    }
    names = {split: name for split, name in found.items() if name}
    classes = {name: sorted(path.name for path in _visible(root / name) if path.is_dir()) for name in names.values()}
    if len(classes["train"]) < 2:
        raise DataError(
            f"folder: {root / 'train'} must hold a folder for each of two or more classes, got {classes['train']}"
        )
    for name, own in classes.items():
        differ = sorted(set(classes["train"]) ^ set(own))
        if differ:
            raise DataError(
                f"folder: {root / 'train'} and {root / name} must hold the same classes, got {differ} in only one"
            )
    samples: dict[str, list[Sample]] = {}
    for split, name in names.items():
        samples[split] = []
        for label, class_name in enumerate(classes[name]):
            files = sorted(path for path in _visible(root / name / class_name) if path.suffix.lower() in SUFFIXES)
            if not files:
                raise DataError(f"folder: {root / name / class_name} must hold {', '.join(SUFFIXES)} files, got none")
            samples[split] += [Sample(str(file), file, label) for file in files]
    return samples


def _visible(path):
    return (child for child in path.iterdir() if not child.name.startswith("."))


def _in_parquet(root):
    files = find_parquet("folder", [root, root / "data"], test=("test", *VALIDATION), validation=VALIDATION)
    if files is None:
        raise no_data(
            "folder", root, "train/CLASS/ folders of images", ["data"], "name another folder with --data-root"
        )
    columns = {name: list(read_columns(paths)) for name, paths in files.items()}
    found = {label for _, _, labels in columns["train"] for label in labels if label is not None}
    num_classes = max(2, 1 + max(found, default=0))
    samples = {}
    for name, parts in columns.items():
        samples[name] = [
            Sample(f"{file}, row {row}", data, cast(int, label))
            for file, encoded, labels in parts
            for row, (data, label) in enumerate(zip(encoded, check_labels(file, labels, num_classes), strict=True))
        ]
    if len(found) < num_classes:
        got = f"{len(found)} of these {num_classes}"
        raise DataError(
            f"folder: {root} must hold training images of every label from 0 to {num_classes - 1}, got {got}"
        )
    return samples
