import os
import shutil
import tarfile
import tempfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import numpy as np

from trainables.datasets._images import DataError, Images, one_line, read_parquet

__all__ = ["cifar10"]

BATCHES = "cifar-10-batches-py"
CHOICES = "leave --data-root out to download it, name another folder, or run sweeps/digits.py, which needs no data"


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
    if root is None:
        return _from_torchvision(_downloaded())
    root = Path(root).expanduser()
    for batches in (root / BATCHES, root):
        if (batches.name == BATCHES and batches.is_dir()) or (batches / "data_batch_1").exists():
            return _from_torchvision(batches)
    for folder in (root, root / "data", root / "plain_text"):
        files = {name: _parquet_files(folder, name) for name in ("train", "test")}
        if all(files.values()):
            return _from_parquet(files)
        if any(files.values()):
            missing = next(name for name in files if not files[name])
            raise DataError(
                f"cifar10: {folder} must hold both splits, got no {missing}.parquet nor {missing}-*.parquet"
            )
    what = "a folder without them" if root.is_dir() else "no such folder"
    raise DataError(
        f"cifar10: {root} must hold {BATCHES}/, or train.parquet and test.parquet (or train-*.parquet and "
        f"test-*.parquet, there or in data/ or plain_text/), got {what}: {CHOICES}"
    )


def _images(train_images, train_labels, test_images, test_labels):
    return Images(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=10,
        max_value=255,
        augmentation="crop_flip",
        validation_fraction=0.1,
    )


def _parquet_files(folder, name):
    whole = folder / f"{name}.parquet"
    return [whole] if whole.exists() else sorted(folder.glob(f"{name}-*.parquet"))


def _from_parquet(files):
    train, test = (read_parquet(files[name], shape=(3, 32, 32), num_classes=10) for name in ("train", "test"))
    return _images(*train, *test)


def _from_torchvision(batches):
    """Read torchvision's files, which are pickles: torchvision opens them only after their md5 sums match."""
    from torchvision.datasets import CIFAR10

    batches = batches.resolve()
    located = type("CIFAR10", (CIFAR10,), {"base_folder": batches.name})  # torchvision fixes the folder's name
    try:
        train, test = (located(batches.parent, train=train) for train in (True, False))
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"cifar10: {batches} must hold torchvision's files with the md5 sums that it knows, got missing, cut or "
            f"changed ones ({one_line(error)}): {CHOICES}"
        ) from error
    arrays = [(np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), np.array(data.targets)) for data in (train, test)]
    return _images(*arrays[0], *arrays[1])


def _downloaded():
    """The folder of the cached copy, downloaded if it is not there or not whole.

    The download is unpacked in a temporary folder and moved when it is complete, so that an interrupted one leaves
    nothing under the final name, and processes that download at the same time end with one whole copy.
    """
    from torchvision.datasets import CIFAR10

    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparsity-sweeps" / "cifar10"
    batches = cache / BATCHES
    if _is_whole(batches):
        return batches
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="partial-") as partial:
            CIFAR10(partial, download=True)
            if not _is_whole(batches):
                shutil.rmtree(batches, ignore_errors=True)
                with suppress(OSError):  # another process was first: its copy is used
                    (Path(partial) / BATCHES).rename(batches)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        raise DataError(
            f"cifar10: the data must be downloadable from {CIFAR10.url} to {cache}, got {one_line(error)}: connect to "
            "the network, name a folder that holds the data with --data-root, or run sweeps/digits.py, which needs none"
        ) from error
    return batches


def _is_whole(batches):
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    sums = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    return all(check_integrity(batches / name, md5) for name, md5 in sums)
