from trainables.datasets._cifar import cifar

__all__ = ["cifar10"]


def cifar10(root=None):
    """CIFAR-10, 32x32 RGB images of ten classes: 50,000 to train on and 10,000 to test on.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    root: a folder, in which this looks for, in this order,
        `cifar-10-batches-py/` as torchvision downloads it (or `root` is that folder), checked against its md5 sums;
        `train.parquet` and `test.parquet`, or the hub's `train-*.parquet` and `test-*.parquet`, in `root`,
        `root/data` or `root/plain_text`, with the columns of `uoft-cs/cifar10` (see `read_parquet`).
        None: the copy in `$XDG_CACHE_HOME/sparsity-sweeps/cifar10` (`~/.cache` by default), downloaded on first use.
    DataError if there is no data, if it is incomplete or unreadable, or if it cannot be downloaded.
    """
    batches = {"batches": "cifar-10-batches-py", "first": "data_batch_1"}
    return cifar("cifar10", root, **batches, subfolder="plain_text", num_classes=10)
