"""What the data sets share: the value they return, the validation split, and reading images from parquet files."""

import io
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["DataError", "Images", "one_line", "read_parquet", "split"]

SPLIT_SEED = 20_251_114  # never changes: results on a validation split compare only with results on the same one


class DataError(ValueError):
    """Data that is absent, incomplete or unreadable; the message is one line that says where, what and what to do."""


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled image data set, in memory as plain uint8 so that Ray can share one copy of it on a node.

    train_images, test_images: uint8 (N, C, H, W), from 0 (black) to `max_value` (white).
    train_labels, test_labels: int64 (N,), from 0 to `num_classes` - 1.
    augmentation: what training does to an image: "none", or "crop_flip" (a crop after padding, a mirror image).
    validation_fraction: the share of the training images that `split` holds out.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    max_value: int
    augmentation: Literal["none", "crop_flip"]
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


def read_parquet(files, *, shape, num_classes):
    """Read images and labels from parquet files in the schema of the Hugging Face hub, in the order of `files`.

    files: paths; each file has a column `img` or `image`, a struct whose `bytes` are a JPEG or PNG file, and an
        integer column `label`. If they are named NAME-00000-of-00002.parquet, all of them have to be there.
    shape: (C, H, W) that every image must have: C = 3 is RGB, C = 1 is greyscale.
    Returns images uint8 (N, C, H, W) and labels int64 (N,). DataError, naming file and row (from 0), otherwise.
    """
    for file in files:
        shard = re.search(r"-of-(\d+)\.parquet$", file.name)
        if shard and len(files) != int(shard[1]):
            raise DataError(
                f"{file.parent}: must hold all {int(shard[1])} parts that {file.name} belongs to, got {len(files)}"
            )
    parts = [_read_one(file, shape, num_classes) for file in files]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_one(file, shape, num_classes):
    encoded, labels = _columns(file)
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < num_classes:
            raise DataError(f"{file}, row {row}: label must be from 0 to {num_classes - 1}, got {label}")
    # One thread: at 32x32 the decoder holds the GIL most of the time, and two threads measured slower than one.
    images = np.empty((len(encoded), *shape), np.uint8)
    for row, data in enumerate(encoded):
        images[row] = _decode(data, shape, where=f"{file}, row {row}")
    return images, np.array(labels, np.int64)


def _columns(file):
    """The images' bytes and the labels of one parquet file, as two lists of the same length."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            name = next((name for name in ("img", "image") if name in schema.names), None)
            if name is None or "label" not in schema.names:
                raise DataError(f"{file}: must have the columns img (or image) and label, got {schema.names}")
            image_type, label_type = schema.field(name).type, schema.field("label").type
            if not (pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0):
                raise DataError(f"{file}: column {name} must be a struct with the field bytes, got {image_type}")
            bytes_type = image_type.field("bytes").type
            if not (pa.types.is_binary(bytes_type) or pa.types.is_large_binary(bytes_type)):
                raise DataError(f"{file}: column {name}'s field bytes must be of a binary type, got {bytes_type}")
            if not pa.types.is_integer(label_type):
                raise DataError(f"{file}: column label must be of an integer type, got {label_type}")
            table = parquet.read(columns=[f"{name}.bytes", "label"])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: must be a readable parquet file, got {one_line(error)}") from error
    if table.num_rows == 0:
        raise DataError(f"{file}: must have at least one row, got none")
    images = table[name].to_pylist()
    return [image and image["bytes"] for image in images], table["label"].to_pylist()


def _decode(data, shape, *, where):
    """The uint8 (C, H, W) image in the bytes of a JPEG or PNG file."""
    from PIL import Image

    if data is None:
        raise DataError(f"{where}: image must be bytes (a path alone is not followed), got null")
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        image_shape = (len(image.getbands()), image.height, image.width)
        if image_shape == shape and image.mode in ("RGB", "L"):
            pixels = np.asarray(image)
            return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    except Exception as error:  # whatever the decoders raise on bytes that are no image, they raise a dozen types
        raise DataError(f"{where}: image must be a readable JPEG or PNG, got {one_line(error)}") from error
    raise DataError(f"{where}: image must have shape {shape} (channels, height, width), got {image_shape} {image.mode}")


def one_line(error):
    """An exception as text for inside an error message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
