from pathlib import Path

from trainables.data.images import Images
from trainables.datasets._cifar import load_cifar

__all__ = ["cifar10"]


def cifar10(root: str | Path | None = None) -> Images:
    """CIFAR-10: 32x32 RGB images of ten classes.

    50,000 images for training and 10,000 for testing.

    Args:
        root: Folder with the data, in the first of these formats that it holds. None downloads torchvision's files to
            `$XDG_CACHE_HOME/sparsity-sweeps/cifar10` (`~/.cache` by default) on first use.

            - `cifar-10-batches-py/` as torchvision downloads it, or `root` is that folder. The md5 sums are checked.
            - `train.parquet` and `test.parquet`, or the hub's `train-*.parquet` and `test-*.parquet`, in `root`,
              `root/data` or `root/plain_text`, with the columns of `uoft-cs/cifar10` (see `read_parquet`).

    Returns:
        The dataset. A tenth of the training images is held out for validation.

    Raises:
        DataError: If the data is missing, incomplete or unreadable, or cannot be downloaded.

    Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    batches = {"batches": "cifar-10-batches-py", "first": "data_batch_1"}
    return load_cifar("cifar10", root, **batches, subfolder="plain_text", num_classes=10)
