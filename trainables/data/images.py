"""What the data sets share: the value they return, the validation split, and reading images and parquet files."""

import io
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainables.errors import one_line

__all__ = [
    "DataError",
    "Images",
    "check_labels",
    "decode",
    "find_parquet",
    "no_data",
    "read_columns",
    "read_parquet",
    "split",
]

SPLIT_SEED = 20_251_114  # never changes: results on a validation split compare only with results on the same one
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's modes of at most 8 bits a channel


class DataError(ValueError):
    """Data that is absent, incomplete or unreadable; the message is one line that says where, what and what to do."""


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled image data set, in memory as plain uint8 so that Ray can share one copy of it on a node.

    train_images, test_images: uint8 (N, C, H, W), from 0 (black) to `max_value` (white).
    train_labels, test_labels: int64 (N,), from 0 to `num_classes` - 1.
    augmentation: what training does to an image: "none", "crop" (after padding), or "crop_flip" (and a mirror image).
    validation_fraction: the share of the training images that `split` holds out.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    max_value: int
    augmentation: Literal["none", "crop", "crop_flip"]
    validation_fraction: float

    def split(self, train_size=None):
        """The indices (training, validation) into `train_images`: see `split` below."""
        return split(len(self.train_images), self.validation_fraction, train_size)


def split(num, validation_fraction, train_size=None):
    """Divide range(num) into the indices (training, validation), two int64 arrays in shuffled order.

    The shuffle depends on `num` alone: every seed, run and train_size validates on the same images.
    validation_fraction: share of `num` held out, rounded to a whole number of images.
    train_size: keep the first so many training indices, all of them if None.
    ValueError if train_size is below 1 or above the number of training indices.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(num)
    num_validation = round(num * validation_fraction)
    validation, training = order[:num_validation], order[num_validation:]
    if train_size is None:
        return training, validation
    if not 1 <= train_size <= len(training):
        raise ValueError(
            f"split: train_size must be from 1 to {len(training)} (the {num} training images less the "
            f"{num_validation} to validate on), got {train_size}"
        )
    return training[:train_size], validation


def find_parquet(where, folders, *, test=("test",)):
    """{"train": files, "test": files} of the first of `folders` that holds them, as the Hugging Face hub names files.

    A split is NAME.parquet, or NAME-*.parquet in the order of their names. test: what the test split may be called; the
    first name found is taken. None if there are no such files; DataError if a folder holds one split without the other.
    """
    for folder in folders:
        files = {"train": _parquet_files(folder, "train"), "test": []}
        for name in test:
            files["test"] = files["test"] or _parquet_files(folder, name)
        if all(files.values()):
            return files
        if any(files.values()):
            missing = "train" if not files["train"] else test[0]
            raise DataError(
                f"{where}: {folder} must hold both splits, got no {missing}.parquet nor {missing}-*.parquet"
            )
    return None


def _parquet_files(folder, name):
    whole = folder / f"{name}.parquet"
    return [whole] if whole.exists() else sorted(folder.glob(f"{name}-*.parquet"))


def no_data(where, root, native, folders, advice, *, test="test"):
    """The DataError of a root with neither the data set's `native` files nor parquet files in it or its `folders`."""
    got = "a folder without them" if root.is_dir() else "no such folder"
    also = " or ".join(f"{name}/" for name in folders)
    return DataError(
        f"{where}: {root} must hold {native}, or train.parquet and {test}.parquet (or train-*.parquet and "
        f"{test}-*.parquet, there{f' or in {also}' if also else ''}), got {got}: {advice}"
    )


def read_parquet(files, *, shape, num_classes, label="label", convert=False):
    """Read images and labels from parquet files in the schema of the Hugging Face hub, in the order of `files`.

    files: paths; each file has a column `img` or `image`, a struct whose `bytes` are a JPEG or PNG file, and an
        integer column `label`. If they are named NAME-00000-of-00002.parquet, all of them have to be there.
    shape: (C, H, W) that every image must have: C = 3 is RGB, C = 1 is greyscale. convert: see `decode`.
    label: the name of the column of labels.
    Returns images uint8 (N, C, H, W) and labels int64 (N,). DataError, naming file and row (from 0), otherwise.
    """
    parts = []
    for file, encoded, labels in read_columns(files, label=label):
        check_labels(file, labels, num_classes)
        # One thread: at 32x32 the decoder holds the GIL most of the time, and two threads measured slower than one.
        images = np.empty((len(encoded), *shape), np.uint8)
        for row, data in enumerate(encoded):
            images[row] = decode(data, shape, where=f"{file}, row {row}", convert=convert)
        parts.append((images, np.array(labels, np.int64)))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def check_labels(file, labels, num_classes):
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < num_classes:
            raise DataError(f"{file}, row {row}: label must be from 0 to {num_classes - 1}, got {label}")


def read_columns(files, *, label="label"):
    """Yield (file, the images' bytes, the labels), two lists of the same length, for each of `read_parquet`'s files."""
    for file in files:
        shard = re.search(r"-of-(\d+)(-[0-9a-f]+)?\.parquet$", file.name)
        if shard and len(files) != int(shard[1]):
            raise DataError(
                f"{file.parent}: must hold all {int(shard[1])} parts that {file.name} belongs to, got {len(files)}"
            )
    for file in files:
        yield file, *_columns(file, label)


def _columns(file, label):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            name = next((name for name in ("img", "image") if name in schema.names), None)
            if name is None or label not in schema.names:
                raise DataError(f"{file}: must have the columns img (or image) and {label}, got {schema.names}")
            image_type, label_type = schema.field(name).type, schema.field(label).type
            if not (pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0):
                raise DataError(f"{file}: column {name} must be a struct with the field bytes, got {image_type}")
            bytes_type = image_type.field("bytes").type
            if not (pa.types.is_binary(bytes_type) or pa.types.is_large_binary(bytes_type)):
                raise DataError(f"{file}: column {name}'s field bytes must be of a binary type, got {bytes_type}")
            if not pa.types.is_integer(label_type):
                raise DataError(f"{file}: column {label} must be of an integer type, got {label_type}")
            table = parquet.read(columns=[f"{name}.bytes", label])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: must be a readable parquet file, got {one_line(error)}") from error
    if table.num_rows == 0:
        raise DataError(f"{file}: must have at least one row, got none")
    images = table[name].to_pylist()
    return [image and image["bytes"] for image in images], table[label].to_pylist()


def decode(data, shape, *, where, convert=False, resize=False, advice=""):
    """The uint8 (C, H, W) image in the bytes of a JPEG or PNG file, of the given shape.

    convert: images of up to 8 bits a channel are made grey or RGB, as C says; transparency is dropped, and the note on
        orientation that cameras write followed. resize: images are made H x W, bilinear and antialiased, whatever their
        aspect. DataError without them for another kind or size (it ends with `advice`), and for what no decoder reads.
    """
    from PIL import Image, ImageOps

    if data is None:
        raise DataError(f"{where}: image must be bytes (a path alone is not followed), got null")
    channels, height, width = shape
    mode = "RGB" if channels == 3 else "L"
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        found = image.mode
        if convert and found in EIGHT_BITS:
            image = ImageOps.exif_transpose(image).convert(mode)
        if resize and image.mode == mode:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        image_shape = (len(image.getbands()), image.height, image.width)
        if image_shape == tuple(shape) and image.mode == mode:
            pixels = np.asarray(image)
            return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    except Exception as error:  # whatever the decoders raise on bytes that are no image, they raise a dozen types
        raise DataError(f"{where}: image must be a readable JPEG or PNG, got {one_line(error)}") from error
    raise DataError(
        f"{where}: image must have shape {tuple(shape)} (channels, height, width){' and 8 bits a channel' * convert}, "
        f"got {image_shape} {found}{advice}"
    )
