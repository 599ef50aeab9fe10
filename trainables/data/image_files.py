"""Decoding of JPEG and PNG files."""

import io

import numpy as np

from trainables.data.errors import DataError
from trainables.errors import one_line

__all__ = ["decode_image"]

EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # Pillow's modes of at most 8 bits a channel


def decode_image(
    data: bytes | None,
    shape: tuple[int, int, int],
    *,
    where: str,
    convert: bool = False,
    resize: bool = False,
    advice: str = "",
) -> np.ndarray:
    """Decode a JPEG or PNG file to an image of a given shape.

    Args:
        data: The contents of the file. None stands for an image that is missing.
        shape: (C, H, W) of the image: C = 3 is RGB, C = 1 is grey.
        where: The image, as error messages name it.
        convert: Whether to convert an image of at most 8 bits a channel to grey or RGB. This drops transparency and
            applies the orientation that cameras store in the file.
        resize: Whether to resize to H x W, bilinear with antialiasing, without keeping the aspect ratio.
        advice: Text to append to the error for a wrong shape.

    Returns:
        uint8 (C, H, W).

    Raises:
        DataError: If the data cannot be decoded or, after the conversions asked for, has another shape.
    """
    from PIL import Image, ImageOps  # lazy: only datasets of image files need Pillow

    if data is None:
        raise DataError(f"{where}: image must be bytes (a path to an image is not followed), got null")
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
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files
        raise DataError(f"{where}: image must be a readable JPEG or PNG, got {one_line(error)}") from error
    raise DataError(
        f"{where}: image must have shape {tuple(shape)} (channels, height, width){' and 8 bits a channel' * convert}, "
        f"got {image_shape} {found}{advice}"
    )
