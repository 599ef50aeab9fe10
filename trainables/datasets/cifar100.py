import numpy as np

from trainables.data.images import DataError
from trainables.datasets._cifar import cifar
from trainables.errors import one_line

__all__ = ["cifar100"]

BINARY = "cifar-100-binary"
RECORD = 2 + 3 * 32 * 32  # bytes: superclass, class, then 1024 reds, 1024 greens, 1024 blues


def cifar100(root=None):
    """CIFAR-100, 32x32 RGB images of a hundred classes: 50,000 to train on and 10,000 to test on.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The labels are those of the
    hundred (fine) classes; the twenty superclasses are not used.
    root: a folder, in which this looks for, in this order,
        `cifar-100-python/` as torchvision downloads it (or `root` is that folder), checked against its md5 sums;
        `cifar-100-binary/` (or `root` is that folder), the publisher's binary version: `train.bin` and `test.bin`;
        `train.parquet` and `test.parquet`, or the hub's `train-*.parquet` and `test-*.parquet`, in `root`,
        `root/data` or `root/cifar100`, with the columns of `uoft-cs/cifar100`: `img` and `fine_label` (see
        `read_parquet`).
        None: the copy in `$XDG_CACHE_HOME/sparsity-sweeps/cifar100` (`~/.cache` by default), downloaded on first use.
    DataError if there is no data, if it is incomplete or unreadable, or if it cannot be downloaded.
    """
    batches = {"batches": "cifar-100-python", "first": "train"}
    binary = {"other": f"{BINARY}/", "read_other": _from_binary}
    return cifar("cifar100", root, **batches, **binary, subfolder="cifar100", num_classes=100, label="fine_label")


def _from_binary(root):
    for folder in (root / BINARY, root):
        files = [folder / "train.bin", folder / "test.bin"]
        if (folder.name == BINARY and folder.is_dir()) or any(file.is_file() for file in files):
            return [_read_binary(file) for file in files]
    return None


def _read_binary(file):
    """The images (N, 3, 32, 32) and the fine labels (N,) of one file of the binary version.

    The sum of the whole is not known here, so its contents are checked: whole records, labels in range, and each class
    in one superclass, which tells a file whose records are shifted or whose two labels are swapped.
    """
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise DataError(f"{file}: must be a readable file, got {one_line(error)}") from error
    if not len(data) or len(data) % RECORD:
        raise DataError(f"{file}: must be whole records of {RECORD} bytes, at least one, got {len(data)} bytes")
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
