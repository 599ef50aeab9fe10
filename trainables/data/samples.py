"""Encoded images with their labels, and how they become arrays."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainables.data.errors import DataError
from trainables.data.image_files import decode_image
from trainables.errors import one_line

__all__ = ["Sample", "decode_samples", "image_size_of"]


class Sample(NamedTuple):
    """An encoded image and its label."""

    where: str  # as error messages name it
    data: Path | bytes | None  # None is an image that a file of the hub lacks
    label: int

    def read(self) -> bytes | None:
        try:
            return self.data.read_bytes() if isinstance(self.data, Path) else self.data
        except OSError as error:
            raise DataError(f"{self.where}: must be a readable file, got {one_line(error)}") from error


def image_size_of(sample: Sample) -> tuple[int, int]:
    """Read the (height, width) of an image."""
    from PIL import Image  # lazy: only datasets of image files need Pillow

    data = sample.read()
    try:
        with Image.open(io.BytesIO(data or b""), formats=("JPEG", "PNG")) as image:
            return image.height, image.width
    except Exception as error:
        raise DataError(f"{sample.where}: image must be a readable JPEG or PNG, got {one_line(error)}") from error


def decode_samples(
    samples: Sequence[Sample], shape: tuple[int, int, int], *, resize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Decode images to uint8 (N, *shape), and return them with their labels, int64 (N,).

    Args:
        shape: (C, H, W) of every image: C = 3 is RGB, C = 1 is grey.
        resize: Whether to resize images to H x W; otherwise another size is a DataError.
    """
    images = np.empty((len(samples), *shape), np.uint8)
    advice = "" if resize else ": --data image_size=N resizes all images to N x N pixels"

    def read_one(i: int) -> None:
        sample = samples[i]
        images[i] = decode_image(sample.read(), shape, where=sample.where, convert=True, resize=resize, advice=advice)

    with ThreadPoolExecutor() as pool:  # decoding a photo releases the GIL
        list(pool.map(read_one, range(len(samples))))  # the list raises the first error, in the order of the samples
    return images, np.array([sample.label for sample in samples], np.int64)
