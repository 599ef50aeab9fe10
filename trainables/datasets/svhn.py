from pathlib import Path

import numpy as np

from trainables.data.download import downloaded
from trainables.data.images import DataError, Images, find_parquet, no_data, read_parquet
from trainables.errors import one_line

__all__ = ["svhn"]

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
ADVICE = (
    "leave --data-root out to download it, name another folder, or try it with generated data: "
    "python -m trainables.data.generate svhn FOLDER"
)


def svhn(root=None):
    """SVHN, cropped: 32x32 RGB images of house numbers' digits, ten classes: 73,257 to train on, 26,032 to test on.

    Source: Netzer, Wang, Coates, Bissacco, Wu & Ng, "Reading Digits in Natural Images with Unsupervised Feature
    Learning", NIPS workshop 2011. The label is the digit. The 531,131 easier images of its "extra" split are not used.
    Training crops and does not mirror: a mirrored 2 is none.
    root: a folder, in which this looks for, in this order,
        `train_32x32.mat` and `test_32x32.mat` as published, where the label 10 means the digit 0;
        `train.parquet` and `test.parquet`, or the hub's `train-*.parquet` and `test-*.parquet`, in `root`,
        `root/data` or `root/cropped_digits`, with the columns of `ufldl-stanford/svhn` (see `read_parquet`).
        None: the copy in `$XDG_CACHE_HOME/sparsity-sweeps/svhn` (`~/.cache` by default), downloaded on first use and
        checked against the md5 sums that torchvision knows.
    DataError if there is no data, if it is incomplete or unreadable, or if it cannot be downloaded.
    """
    folder = _downloaded() if root is None else Path(root).expanduser()
    files = {split: folder / name for split, name in FILES.items()}
    if any(file.is_file() for file in files.values()):
        train, test = (_read_mat(file) for file in files.values())
    elif parquet := find_parquet("svhn", [folder, folder / "data", folder / "cropped_digits"]):
        train, test = (read_parquet(parquet[split], shape=(3, 32, 32), num_classes=10) for split in FILES)
    else:
        raise no_data("svhn", folder, " and ".join(FILES.values()), ["data", "cropped_digits"], ADVICE)
    return Images(
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        num_classes=10,
        max_value=255,
        augmentation="crop",
        validation_fraction=0.1,
    )


def _read_mat(file):
    """Images (N, 3, 32, 32) and digits (N,) of a MATLAB file: X, uint8 (32, 32, 3, N), and y, from 1 to 10, (N, 1)."""
    from scipy.io import loadmat

    try:
        with file.open("rb") as opened:
            content = loadmat(opened, variable_names=["X", "y"])
    except Exception as error:  # a damaged file makes scipy raise a dozen types
        raise DataError(f"{file}: must be a readable MATLAB file, got {one_line(error)}") from error
    X, y = (content.get(name, np.empty(0)) for name in ("X", "y"))
    if X.dtype != np.uint8 or X.shape[:3] != (32, 32, 3) or X.ndim != 4 or not X.size:
        raise DataError(f"{file}: X must be uint8 of shape (32, 32, 3, number of images), got {X.dtype} {X.shape}")
    if y.size != X.shape[3] or not np.isin(y, range(1, 11)).all():
        got = f"{y.size} labels" + (f" from {y.min()} to {y.max()}" if y.size else "")
        raise DataError(
            f"{file}: y must be a label from 1 to 10 (the digit 0) for each of {X.shape[3]} images, got {got}"
        )
    return np.ascontiguousarray(X.transpose(3, 2, 0, 1)), y.ravel().astype(np.int64) % 10


def _downloaded():
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import check_integrity

    def is_whole(folder):
        return all(check_integrity(folder / file, SVHN.split_list[split][2]) for split, file in FILES.items())

    def download(folder):
        for split in FILES:
            SVHN(folder / "cropped_digits", split=split, download=True)

    return downloaded("svhn", "cropped_digits", url=SVHN.split_list["train"][0], download=download, is_whole=is_whole)
