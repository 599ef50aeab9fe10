import zipfile
from pathlib import Path

import numpy as np

from trainables.data.download import cached_download
from trainables.data.errors import DataError
from trainables.data.image_files import decode_image
from trainables.data.images import Images
from trainables.data.parquet import find_parquet, no_data, read_parquet
from trainables.errors import one_line

__all__ = ["tiny_imagenet"]

NAME = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{NAME}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"  # of the published archive of 248,100,043 bytes
SHAPE = (3, 64, 64)
ADVICE = (
    "leave --data-root out to download it, name another folder, or try it with generated data: "
    "python -m trainables.data.generate tiny_imagenet FOLDER"
)


def tiny_imagenet(root: str | Path | None = None) -> Images:
    """Tiny-ImageNet: 64x64 RGB images of 200 classes of ImageNet.

    100,000 images for training and 10,000 for testing. The labels of the published test split are secret. The test
    split here is the published validation split, and the validation split here is a fixed tenth of the training images.
    Classes are numbered in the order of their WordNet ids. Grey JPEG files become RGB. The images take 1.4 GB of
    memory.

    Args:
        root: Folder with the data, in the first of these formats that it holds. None downloads the archive to
            `$XDG_CACHE_HOME/sparsity-sweeps/tiny_imagenet` (`~/.cache` by default) on first use and checks its md5 sum.

            - `tiny-imagenet-200/`, or `root` is that folder, with `wnids.txt`, `train/WNID/images/*.JPEG`,
              `val/images/` and `val/val_annotations.txt`. If wnids.txt lists fewer classes, the dataset has these.
            - `tiny-imagenet-200.zip`, or `root` is that file, as published; it is read in place.
            - `train.parquet` and `valid.parquet` (or test.parquet), or the hub's `train-*.parquet` and
              `valid-*.parquet`, in `root` or `root/data`, with the columns of `zh-plus/tiny-imagenet` (see
              `read_parquet`). Their images are in another order, so the validation split differs from that of the
              other formats.

    Returns:
        The dataset. A tenth of the training images is held out for validation.

    Raises:
        DataError: If the data is missing, incomplete or unreadable, or cannot be downloaded.

    Reference: Le & Yang, "Tiny ImageNet Visual Recognition Challenge", CS231N, Stanford 2015.
    """
    root = _downloaded() if root is None else Path(root).expanduser()
    for folder in (root / NAME, root):
        if (folder / "wnids.txt").is_file():
            return _from_files(_Folder(folder))
    for archive in (root / f"{NAME}.zip", root):
        if archive.is_file():
            with _Archive(archive) as files:
                return _from_files(files)
    parquet = find_parquet("tiny_imagenet", [root, root / "data"], test=("valid", "test"))
    if parquet is None:
        native = f"{NAME}/ (with wnids.txt) or {NAME}.zip"
        raise no_data("tiny_imagenet", root, native, ["data"], ADVICE, test="valid")
    train, test = (
        read_parquet(parquet[split], shape=SHAPE, num_classes=200, convert=True) for split in ("train", "test")
    )
    return _images(train, test, 200)


def _images(train, test, num_classes):
    return Images(
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
        num_classes=num_classes,
        max_value=255,
        augmentation="crop_flip",
        validation_fraction=0.1,
    )


class _Folder:
    """The files below a folder, by their paths in it."""

    def __init__(self, path):
        self.path = path

    def listing(self, folder):
        """Return the sorted paths of the JPEG files in `folder`."""
        return [f"{folder}/{file.name}" for file in sorted((self.path / folder).glob("*.JPEG"))]

    def read(self, name):
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / name}: must be a readable file, got {one_line(error)}") from error


class _Archive:
    """The files in the published archive, by their paths; read in place, so that no path is ever written to."""

    def __init__(self, path):
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path}: must be a readable zip archive, got {one_line(error)}") from error
        self.folders: dict[str, list[str]] = {}
        for name in sorted(self.zip.namelist()):
            if name.endswith(".JPEG"):
                self.folders.setdefault(name.rpartition("/")[0], []).append(name.removeprefix(f"{NAME}/"))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.zip.close()

    def listing(self, folder):
        return self.folders.get(f"{NAME}/{folder}", [])

    def read(self, name):
        try:
            return self.zip.read(f"{NAME}/{name}")
        except Exception as error:  # zipfile and zlib raise several types for damaged members
            raise DataError(f"{self.path}, {NAME}/{name}: must be a readable member, got {one_line(error)}") from error


def _from_files(files):
    wnids = sorted(files.read("wnids.txt").decode(errors="replace").split())
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    if not wnids or len(labels) < len(wnids):
        raise DataError(f"{files.path}, wnids.txt: must list one or more classes, each once, got {len(wnids)} lines")
    train = []
    for wnid, label in labels.items():
        names = files.listing(f"train/{wnid}/images")
        if not names:
            raise DataError(f"{files.path}, train/{wnid}/images: must hold the images of the class, got no .JPEG file")
        train += [(name, label) for name in names]
    test = []
    for number, line in enumerate(files.read("val/val_annotations.txt").decode(errors="replace").splitlines(), 1):
        name, _, wnid = line.partition("\t")
        wnid = wnid.partition("\t")[0]
        if wnid not in labels:
            where = f"{files.path}, val/val_annotations.txt, line {number}"
            raise DataError(f"{where}: must be an image, a tab and a class of wnids.txt, got {line!r}")
        test.append((f"val/images/{name}", labels[wnid]))
    if sorted(name for name, _ in test) != files.listing("val/images"):
        got = f"{len(test)} lines for {len(files.listing('val/images'))} images"
        raise DataError(f"{files.path}, val/val_annotations.txt: must list each of val/images/*.JPEG once, got {got}")
    return _images(_read(files, train), _read(files, test), len(labels))


def _read(files, labelled):
    """Decode the images (N, 3, 64, 64) of (name, label) pairs and return them with their labels (N,)."""
    images = np.empty((len(labelled), *SHAPE), np.uint8)
    for image, (name, _) in zip(images, labelled, strict=True):
        image[:] = decode_image(files.read(name), SHAPE, where=f"{files.path}, {name}", convert=True)
    return images, np.array([label for _, label in labelled], np.int64)


def _downloaded():
    from torchvision.datasets.utils import check_integrity, download_url

    return cached_download(
        "tiny_imagenet",
        "archive",
        url=URL,
        download=lambda folder: download_url(URL, folder / "archive", md5=MD5),
        is_complete=lambda folder: check_integrity(folder / f"{NAME}.zip", MD5),
    )
