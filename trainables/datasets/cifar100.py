from pathlib import Path

import numpy as np

from trainables.data.errors import DataError
from trainables.data.images import Images
from trainables.datasets._cifar import load_cifar
from trainables.errors import one_line

__all__ = ["cifar100"]

BINARY = "cifar-100-binary"
RECORD = 2 + 3 * 32 * 32  # bytes: superclass, class, then 1024 red, 1024 green and 1024 blue values


def cifar100(root: str | Path | None = None) -> Images:
    """CIFAR-100: 32x32 RGB images of 100 classes.

    50,000 images for training and 10,000 for testing. The labels are those of the 100 fine classes; the 20 superclasses
    are not used.

    Args:
        root: Folder with the data, in the first of these formats that it holds. None downloads torchvision's files to
            `$XDG_CACHE_HOME/sparsity-sweeps/cifar100` (`~/.cache` by default) on first use.

            - `cifar-100-python/` as torchvision downloads it, or `root` is that folder. The md5 sums are checked.
            - `cifar-100-binary/`, the publisher's binary version, with `train.bin` and `test.bin`, or `root` is that
              folder.
            - `train.parquet` and `test.parquet`, or the hub's `train-*.parquet` and `test-*.parquet`, in `root`,
              `root/data` or `root/cifar100`, with the columns `img` and `fine_label` of `uoft-cs/cifar100` (see
              `read_parquet`).

    Returns:
        The dataset. A tenth of the training images is held out for validation.

    Raises:
        DataError: If the data is missing, incomplete or unreadable, or cannot be downloaded.

    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    batches = {"batches": "cifar-100-python", "first": "train"}
    binary = {"other": f"{BINARY}/", "read_other": _from_binary}
    return load_cifar("cifar100", root, **batches, **binary, subfolder="cifar100", num_classes=100, label="fine_label")


def _from_binary(root):
    for folder in (root / BINARY, root):
        files = [folder / "train.bin", folder / "test.bin"]
        if (folder.name == BINARY and folder.is_dir()) or any(file.is_file() for file in files):
            return [_read_binary(file) for file in files]
    return None


def _read_binary(file):
    """Read one file of the binary version: images (N, 3, 32, 32) and fine labels (N,).

    No checksum of these files is published, so their contents are checked: whole records, labels in range, and each
    class in one superclass. The last check detects shifted records and swapped labels.
    """
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise DataError(f"{file}: must be a readable file, got {one_line(error)}") from error
    if not len(data) or len(data) % RECORD:
        raise DataError(f"{file}: must hold one or more whole records of {RECORD} bytes, got {len(data)} bytes")
    records = data.reshape(-1, RECORD)
    for column, name, num in ((0, "coarse", 20), (1, "fine", 100)):
        bad = np.flatnonzero(records[:, column] >= num)
        if len(bad):
            got = f"{records[bad[0], column]} in record {bad[0]}"
            raise DataError(f"{file}: {name} labels must be from 0 to {num - 1}, got {got}")
    for label, superclasses in ((k, np.unique(records[records[:, 1] == k, 0])) for k in range(100)):
        if len(superclasses) > 1:
            raise DataError(
                f"{file}: each fine label must have one coarse label, got {label} with {superclasses.tolist()}"
            )
    images = np.ascontiguousarray(records[:, 2:]).reshape(-1, 3, 32, 32)
    return images, records[:, 1].astype(np.int64)
