from pathlib import Path

import numpy as np

from trainables.data.errors import DataError
from trainables.data.images import Augmentation, Images
from trainables.data.labelled import Layout, as_labels, as_pixels, check_options, make_images
from trainables.data.samples import Sample, decode_samples, image_size_of
from trainables.data.saved_datasets import find_column, read_table, split_folders

__all__ = ["huggingface"]

IMAGE, LABEL = ("image", "img"), ("label", "labels")  # names of the columns; the first one that exists is taken


def huggingface(
    root: str | Path | None = None,
    *,
    image: str = "",
    label: str = "",
    image_size: int | None = None,
    channels: int = 3,
    layout: Layout = "auto",
    max_value: float | None = None,
    augmentation: Augmentation = "crop_flip",
    validation_fraction: float = 0.1,
) -> Images:
    """Your own images as a dataset of Hugging Face's library `datasets`, saved with `save_to_disk`.

    The library is not needed to read them. A saved `DatasetDict` has the split `train` and perhaps `validation` (or
    `valid` or `val`) and `test`. With one of them only, that is the test split. Without any, and for a saved `Dataset`,
    a fixed random 20% of the images are the test split.

    Images are encoded as JPEG or PNG (the feature `Image`, or a column of bytes) or arrays (`Array2D`, `Array3D` or
    nested lists). Labels are whole numbers from 0 (`ClassLabel` or integers); `dataset.class_encode_column(name)` makes
    them from texts.

    Args:
        root: The folder.
        image: Column of the images; default: `image` or `img`.
        label: Column of the labels; default: `label` or `labels`.
        image_size: Height and width, in pixels, that encoded images are resized to (bilinear with antialiasing, without
            keeping the aspect ratio). None keeps the size, which must then be the same for all images.
        channels: 3 converts encoded images to RGB, 1 to grey.
        layout: For arrays of three axes; "hwc" or "chw" says which axis has the channels, and then allows any number
            of them. "auto" takes the axis of 1 or 3 channels.
        max_value: For arrays, the value of white, if it is not 255 for whole numbers or 1 for fractions.
        augmentation: Augmentation of training images: "none", "crop" (shifted by up to 4 pixels, padded with zeros) or
            "crop_flip" (the same, and half of them mirrored).
        validation_fraction: Fraction of the training images held out for validation, in (0, 1), if there is no
            validation split.

    Returns:
        The dataset.

    Raises:
        ValueError: If an argument is out of range.
        DataError: If the folder is not such a dataset, a file is unreadable, or a column is missing or wrong.
    """
    check_options("huggingface", augmentation, validation_fraction)
    if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"huggingface: image_size must be a whole number of pixels >= 1, got {image_size!r}")
    if channels not in (1, 3):
        raise ValueError(f"huggingface: channels must be 1 (grey) or 3 (RGB), got {channels!r}")
    folders = split_folders("huggingface", root)
    root = Path(root or "").expanduser()
    columns = {split: _columns(folder, image, label) for split, folder in folders.items()}
    try:
        labels = {split: as_labels(y, len(x), f"{split} labels") for split, (x, y) in columns.items()}
        if any(isinstance(x, list) for x, _ in columns.values()):
            white = 255
            pixels = _decode(root, columns, channels, image_size)
        else:
            if image_size is not None:
                raise DataError("image_size must be left out (arrays are not resized, only encoded images are)")
            images = {split: x for split, (x, _) in columns.items()}
            pixels, white = as_pixels(images, layout=layout, max_value=max_value)
        return make_images(
            {split: (pixels[split], labels[split]) for split in columns},
            max_value=white,
            augmentation=augmentation,
            validation_fraction=validation_fraction,
        )
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(str(root)) else f"{root}: {error}") from None
    except ValueError as error:
        raise ValueError(f"huggingface: {error}") from None


def _columns(folder, image, label):
    """The images of a split, as an array or as a list of samples, and its labels as an array."""
    import pyarrow as pa  # lazy: most datasets do not need it

    table = read_table(folder)
    images = find_column(folder, table, image, IMAGE, "image")
    labels = find_column(folder, table, label, LABEL, "label")
    if not pa.types.is_integer(labels.type):
        raise DataError(
            f"{folder}: labels must be whole numbers (dataset.class_encode_column(...) makes them from texts), got "
            f"{labels.type}"
        )
    if labels.null_count:
        raise DataError(f"{folder}: labels must not be missing, got null in row {labels.to_pylist().index(None)}")
    kind = images.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        encoded = [each and each["bytes"] for each in images.to_pylist()]
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        encoded = images.to_pylist()
    else:
        parts = [_dense(chunk, folder) for chunk in images.chunks if len(chunk)]
        if len(shapes := {part.shape[1:] for part in parts}) > 1:
            raise DataError(f"{folder}: images must all have the same shape, got {sorted(shapes)}")
        return np.concatenate(parts), labels.to_numpy()
    samples = [Sample(f"{folder}, row {row}", data, 0) for row, data in enumerate(encoded)]
    return samples, labels.to_numpy()


def _dense(column, folder):
    """A column of nested lists of equal lengths as one array (N, ...)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ExtensionArray):  # Array2D and Array3D, where the library is imported
        column = column.storage
    shape = [len(column)]
    while (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            got = ", ".join(map(str, lengths[:4]))
            raise DataError(f"{folder}: images must all have the same shape, got lists of the lengths {got}")
        shape.append(lengths[0])
        column = column.flatten()
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) or len(shape) == 1:
        raise DataError(f"{folder}: images must be encoded files, or arrays of numbers, got a column of {column.type}")
    if column.null_count:
        raise DataError(f"{folder}: images must not have missing values, got {column.null_count} of them")
    return column.to_numpy(zero_copy_only=False).reshape(shape)


def _decode(root, columns, channels, image_size):
    samples = {split: x for split, (x, _) in columns.items()}
    arrays = [split for split, x in samples.items() if not isinstance(x, list)]
    if arrays:
        raise DataError(f"{root}: images must be of one kind in all splits, got arrays in {', '.join(arrays)}")
    size = (image_size, image_size) if image_size else image_size_of(samples["train"][0])
    return {
        split: decode_samples(each, (channels, *size), resize=bool(image_size))[0] for split, each in samples.items()
    }
