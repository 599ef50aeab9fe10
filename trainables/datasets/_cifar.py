"""What CIFAR-10 and CIFAR-100 share: the files that torchvision downloads, and where a folder may hold which files."""

from pathlib import Path

import numpy as np

from trainables.data.download import downloaded
from trainables.data.images import DataError, Images, find_parquet, no_data, read_parquet
from trainables.errors import one_line

__all__ = ["cifar"]

ADVICE = "leave --data-root out to download it, name another folder or run python -m sweeps.digits, which needs no data"


def cifar(name, root, *, batches, first, subfolder, num_classes, label="label", other=None, read_other=None):
    """The data set `name`, whose torchvision class has that name in capitals, from wherever `root` holds it.

    Looked for in this order: torchvision's folder `batches`, with the file `first` in it; `read_other(root)`, arrays of
    files that messages call `other`, or None if they are not there; parquet files in `root`, `root/data` or
    `root/subfolder`, with the labels in the column `label`. root = None: a copy downloaded by torchvision.
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
    """Read torchvision's files, which are pickles: torchvision opens them only after their md5 sums match."""
    folder = folder.resolve()
    source = _source(name)
    located = type(source.__name__, (source,), {"base_folder": folder.name})  # torchvision fixes the folder's name
    try:
        splits = [located(folder.parent, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{name}: {folder} must hold torchvision's files with the md5 sums that it knows, got missing, cut or "
            f"changed ones ({one_line(error)}): {ADVICE}"
        ) from error
    return [(np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)), np.array(split.targets)) for split in splits]


def _downloaded(name, batches):
    source = _source(name)

    def is_whole(folder):
        from torchvision.datasets.utils import check_integrity

        sums = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        return all(check_integrity(folder / file, md5) for file, md5 in sums)

    def download(folder):
        source(folder, download=True)

    return downloaded(name, batches, url=source.url, download=download, is_whole=is_whole)


def _source(name):
    from torchvision import datasets

    return getattr(datasets, name.upper())
