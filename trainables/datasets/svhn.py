from pathlib import Path

import numpy as np

from trainables.data.download import cached_download
from trainables.data.errors import DataError
from trainables.data.images import Images
from trainables.data.parquet import find_parquet, no_data, read_parquet
from trainables.errors import one_line

__all__ = ["svhn"]

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
ADVICE = (
    "leave --data-root out to download it, name another folder, or try it with generated data: "
    "python -m trainables.data.generate svhn FOLDER"
)


def svhn(root: str | Path | None = None) -> Images:
    """SVHN, cropped: 32x32 RGB images of the digits of house numbers.

    73,257 images for training and 26,032 for testing. The label is the digit. The 531,131 easier images of the "extra"
    split are not used. Training crops at random but does not mirror, because a mirrored digit is not a digit.

    Args:
        root: Folder with the data, in the first of these formats that it holds. None downloads the published files to
            `$XDG_CACHE_HOME/sparsity-sweeps/svhn` (`~/.cache` by default) on first use and checks the md5 sums that
            torchvision knows.

            - `train_32x32.mat` and `test_32x32.mat` as published, where the label 10 means the digit 0.
            - `train.parquet` and `test.parquet`, or the hub's `train-*.parquet` and `test-*.parquet`, in `root`,
              `root/data` or `root/cropped_digits`, with the columns of `ufldl-stanford/svhn` (see `read_parquet`).

    Returns:
        The dataset. A tenth of the training images is held out for validation.

    Raises:
        DataError: If the data is missing, incomplete or unreadable, or cannot be downloaded.

    Reference: Netzer, Wang, Coates, Bissacco, Wu & Ng, "Reading Digits in Natural Images with Unsupervised Feature
    Learning", NIPS workshop 2011.
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
    """Read a MATLAB file, X (32, 32, 3, N) and y (N, 1) from 1 to 10: images (N, 3, 32, 32) and digits (N,)."""
    from scipy.io import loadmat  # lazy: parquet files do not need it

    try:
        with file.open("rb") as opened:
            content = loadmat(opened, variable_names=["X", "y"])
    except Exception as error:  # scipy raises a dozen types for damaged files
        raise DataError(f"{file}: must be a readable MATLAB file, got {one_line(error)}") from error
    X, y = (content.get(name, np.empty(0)) for name in ("X", "y"))
    if X.dtype != np.uint8 or X.shape[:3] != (32, 32, 3) or X.ndim != 4 or not X.size:
        raise DataError(f"{file}: X must be uint8 of shape (32, 32, 3, number of images), got {X.dtype} {X.shape}")
    if y.size != X.shape[3] or not np.isin(y, range(1, 11)).all():
        got = f"{y.size} labels" + (f" from {y.min()} to {y.max()}" if y.size else "")
        raise DataError(
            f"{file}: y must be a label from 1 to 10 (10 is the digit 0) for each of {X.shape[3]} images, got {got}"
        )
    return np.ascontiguousarray(X.transpose(3, 2, 0, 1)), y.ravel().astype(np.int64) % 10


def _downloaded():
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import check_integrity

    def is_complete(folder):
        return all(check_integrity(folder / file, SVHN.split_list[split][2]) for split, file in FILES.items())

    def download(folder):
        for split in FILES:
            SVHN(folder / "cropped_digits", split=split, download=True)

    return cached_download(
        "svhn", "cropped_digits", url=SVHN.split_list["train"][0], download=download, is_complete=is_complete
    )
