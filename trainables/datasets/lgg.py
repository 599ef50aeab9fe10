import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from trainables.data.archives import ARCHIVE_SUFFIXES, read_archive
from trainables.data.errors import DataError
from trainables.data.slices import Slices, examination_statistics
from trainables.data.splits import SPLITS, split_patients
from trainables.errors import one_line

__all__ = ["lgg"]

FOLDER = "kaggle_3m"
PAGE = "https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation"
NAME = re.compile(r"(?P<stem>.+_(?P<number>\d+))(?P<mask>_mask)?\.tif")
DATE = re.compile(r"_\d{8}$")  # of an examination, after the patient's name; a patient may have two
MAX_VALUE = 255
CHANNELS = ("pre-contrast", "FLAIR", "post-contrast")


def lgg(root: str | Path | None = None, *, image_size: int = 256) -> Slices:
    """LGG brain MRI: slices of 110 glioma patients with masks of the lesion.

    Slices are 256x256, and the masks show the FLAIR abnormality. This is the copy on Kaggle, under CC BY-NC-SA 4.0. The
    channels are pre-contrast, FLAIR and post-contrast. Where a patient lacks one of the contrasts, the publishers put
    FLAIR in its place. The splits are by patient, never by slice (see `split_patients`), and include patients without a
    lesion.

    Args:
        root: A folder with `kaggle_3m/<patient>_<date>/<patient>_<date>_<slice>.tif` and `..._mask.tif`; the folder
            `kaggle_3m` itself; an archive of it (zip, tar, tar.gz or tar.xz, read in place); or a folder with one such
            archive.
        image_size: Height and width, in pixels, that slices are resized to: images bilinear with antialiasing, masks by
            nearest neighbour. At least 32, because a UNet halves it five times.

    Returns:
        The dataset.

    Raises:
        ValueError: If image_size < 32.
        DataError: If there is no data, an image has no mask or a mask no image, a file is damaged or of another size
            than the first, a mask has other values than 0 and 255, or a split has no lesion.

    Reference: Buda, Saha & Mazurowski, "Association of genomic subtypes of lower-grade gliomas with shape features
    automatically extracted by a deep learning algorithm", Computers in Biology and Medicine 109, 2019.
    """
    if not isinstance(image_size, int) or image_size < 32:
        raise ValueError(f"lgg: image_size must be a whole number >= 32 (it is halved five times), got {image_size!r}")
    if root is None:
        raise DataError(
            f"lgg: --data-root must name a folder that holds {FOLDER}/ or its archive, from {PAGE}, got none"
        )
    root = Path(root).expanduser()
    images, masks = _read(_files(root), image_size)
    for one, other, suffix in ((images, masks, "_mask"), (masks, images, "")):
        if unpaired := one.keys() - other.keys():
            folder, _, stem = min(unpaired)
            raise DataError(
                f"lgg: {root} must have a mask for each image and an image for each mask, got no "
                f"{folder}/{stem}{suffix}.tif"
            )
    if not images:
        what = "none" if root.exists() else "no such folder"
        raise DataError(f"lgg: {root} must hold {FOLDER}/ or its archive, from {PAGE}, got {what}")
    keys = sorted(images)
    patients = np.array([DATE.sub("", folder) for folder, _, _ in keys])
    pixels = np.stack([images.pop(key) for key in keys])
    mean, std = examination_statistics(pixels, [folder for folder, _, _ in keys], MAX_VALUE)
    slices = Slices(
        images=pixels,
        masks=np.stack([masks.pop(key) for key in keys]),
        patients=patients,
        numbers=np.array([number for _, number, _ in keys]),
        mean=mean,
        std=std,
        split=split_patients(patients.tolist()),
        channels=CHANNELS,
        shown=CHANNELS.index("FLAIR"),
        max_value=MAX_VALUE,
    )
    for name in SPLITS:
        if not slices.masks[slices.rows(name)].any():
            of = ", ".join(slices.split[name])
            raise DataError(f"lgg: the {name} split must have a slice with a lesion, got none for its patients {of}")
    return slices


def _files(root: Path) -> Iterator[tuple[str, PurePosixPath, bytes]]:
    """Read every .tif file of the patients: its name in error messages, its path, its contents."""
    if root.is_file():
        yield from _archived(root)
        return
    for folder in (root / FOLDER, root / "lgg-mri-segmentation" / FOLDER, root):
        files = sorted(folder.glob("*/*.tif"))
        if files:
            for file in files:
                yield str(file), PurePosixPath(file), _bytes(file)
            return
    archives = sorted(file for file in root.glob("*") if file.name.endswith(ARCHIVE_SUFFIXES))
    if len(archives) > 1:
        names = ", ".join(file.name for file in archives)
        raise DataError(f"lgg: {root} must hold {FOLDER}/ or one archive (name one as --data-root), got {names}")
    for archive in archives:
        yield from _archived(archive)


def _archived(archive: Path) -> Iterator[tuple[str, PurePosixPath, bytes]]:
    """Read the files of the first `kaggle_3m` in an archive: Kaggle's own zip holds every file twice."""
    top = None
    for path, content in read_archive(archive, ".tif"):
        if (
            len(path.parts) >= 3 and path.parts[-3] == FOLDER and not path.name.startswith("._")
        ):  # metadata that macOS adds
            top = top or path.parents[1]
            if path.parents[1] == top:
                yield f"{archive}, {path}", path, content


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: must be readable, got {one_line(error)}") from error


def _read(files: Iterable[tuple[str, PurePosixPath, bytes]], image_size: int) -> tuple[dict, dict]:
    """Decode and resize: images (3, S, S) and masks (S, S), uint8, by (folder, slice number, name without .tif)."""
    found: tuple[dict, dict] = ({}, {})
    size = None
    for where, path, content in files:
        name = NAME.fullmatch(path.name)
        if name is None:
            raise DataError(f"{where}: must be named PATIENT_NUMBER.tif or PATIENT_NUMBER_mask.tif, got {path.name}")
        image = _decode(content, "L" if name["mask"] else "RGB", where=where)
        size = size or image.size
        if image.size != size or size[0] != size[1]:
            raise DataError(f"{where}: must be square and of the size of the first slice, {size}, got {image.size}")
        key = (path.parent.name, int(name["number"]), name["stem"])
        into = found[bool(name["mask"])]
        if key in into:
            raise DataError(f"{where}: must exist once, got it twice")
        into[key] = _mask(image, image_size, where=where) if name["mask"] else _image(image, image_size)
    return found


def _image(image, size):
    from PIL import Image

    return np.ascontiguousarray(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1))


def _mask(image, size, *, where):
    from PIL import Image

    if others := set(np.unique(image).tolist()) - {0, MAX_VALUE}:
        raise DataError(f"{where}: a mask must hold 0 and 255 only, got {min(others)}")
    return np.asarray(image.resize((size, size), Image.Resampling.NEAREST)) // MAX_VALUE


def _decode(content, mode, *, where):
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content), formats=("TIFF",))
        image.load()
    except Exception as error:  # Pillow's decoder raises a dozen types for damaged files
        raise DataError(f"{where}: must be a readable TIFF image, got {one_line(error)}") from error
    if image.mode != mode:
        raise DataError(
            f"{where}: must be of mode {mode} ({'a mask' if mode == 'L' else 'an image'}), got {image.mode}"
        )
    return image
