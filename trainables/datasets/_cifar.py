"""What CIFAR-10 and CIFAR-100 share: finding and reading their files."""

from pathlib import Path

import numpy as np

from trainables.data.download import cached_download
from trainables.data.errors import DataError
from trainables.data.images import Images
from trainables.data.parquet import find_parquet, no_data, read_parquet
from trainables.errors import one_line

__all__ = ["load_cifar"]

ADVICE = "leave --data-root out to download it, name another folder or run python -m sweeps.digits, which needs no data"


def load_cifar(name, root, *, batches, first, subfolder, num_classes, label="label", other=None, read_other=None):
    """Load a CIFAR dataset in whichever format a folder holds it.

    The formats are tried in this order: torchvision's folder `batches`; the format that `read_other` reads; parquet
    files in `root`, `root/data` or `root/subfolder`.

    Args:
        name: The dataset; its torchvision class has this name in capitals.
        root: Folder with the data, or None for a copy that torchvision downloads.
        batches: Name of torchvision's folder.
        first: A file in it, which identifies the folder whatever its name.
        subfolder: Folder of parquet files in the dataset's repository on the Hugging Face hub.
        num_classes: Number of classes.
        label: Name of the column of labels in parquet files.
        other: Name of the files that `read_other` reads, for error messages.
        read_other: Called with `root`; returns the images and labels of both splits, or None if there are no files.

    Returns:
        The dataset, as `Images`.

    Raises:
        DataError: If the data is missing, incomplete or unreadable.
    """
    arrays = _from_torchvision(name, _downloaded(name, batches)) if root is None else None
    root = Path(root or "").expanduser()
    for folder in (root / batches, root):
        if arrays is None and ((folder.name == batches and folder.is_dir()) or (folder / first).is_file()):
            arrays = _from_torchvision(name, folder)
    if arrays is None and read_other:
        arrays = read_other(root)
    if arrays is None:
        files = find_parquet(name, [root, root / "data", root / subfolder])
        if files is None:
            native = f"{batches}/ or {other}" if other else f"{batches}/"
            raise no_data(name, root, native, ["data", subfolder], ADVICE)
        arguments = {"shape": (3, 32, 32), "num_classes": num_classes, "label": label}
        arrays = [read_parquet(files[split], **arguments) for split in ("train", "test")]
    (train_images, train_labels), (test_images, test_labels) = arrays
    return Images(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=num_classes,
        max_value=255,
        augmentation="crop_flip",
        validation_fraction=0.1,
    )


def _from_torchvision(name, folder):
    """Read torchvision's files. They are pickles, which torchvision opens only if their md5 sums match."""
    folder = folder.resolve()
    source = _source(name)
    located = type(source.__name__, (source,), {"base_folder": folder.name})  # torchvision hard-codes the folder's name
    try:
        splits = [located(folder.parent, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{name}: {folder} must hold torchvision's files with the md5 sums that it knows, got missing, truncated "
            f"or changed ones ({one_line(error)}): {ADVICE}"
        ) from error
    return [(np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)), np.array(split.targets)) for split in splits]


def _downloaded(name, batches):
    source = _source(name)

    def is_complete(folder):
        from torchvision.datasets.utils import check_integrity

        sums = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        return all(check_integrity(folder / file, md5) for file, md5 in sums)

    def download(folder):
        source(folder, download=True)

    return cached_download(name, batches, url=source.url, download=download, is_complete=is_complete)


def _source(name):
    from torchvision import datasets  # lazy: importing torchvision takes a second

    return getattr(datasets, name.upper())
