"""Image datasets in parquet files, in the layout of the Hugging Face hub."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from trainables.data.errors import DataError
from trainables.data.image_files import decode_image
from trainables.errors import one_line

__all__ = ["check_labels", "find_parquet", "no_data", "read_columns", "read_parquet"]


def find_parquet(
    where: str, folders: Sequence[Path], *, test: Sequence[str] = ("test",), validation: Sequence[str] = ()
) -> dict[str, list[Path]] | None:
    """Find the parquet files of the training and the test split, and perhaps of a validation split.

    A split is stored in `NAME.parquet` or in `NAME-*.parquet`, which are read in the order of their names.

    Args:
        where: The dataset, as error messages name it.
        folders: Folders to look in; the first one that holds the files is taken.
        test: Names of the test split; the first one that exists is taken.
        validation: Names of the validation split; the first one that exists and is not the test split is taken.

    Returns:
        The files by "train", "test" and, if there are any, "validation"; None if no folder holds a training or a test
        split.

    Raises:
        DataError: If a folder holds a training split without a test split, or a test split without a training split.
    """
    for folder in folders:
        files = {"train": _parquet_files(folder, "train"), "test": []}
        for name in test:
            files["test"] = files["test"] or _parquet_files(folder, name)
        if all(files.values()):
            others = (_parquet_files(folder, name) for name in validation)
            held_out = next((found for found in others if found and found != files["test"]), None)
            return files | {"validation": held_out} if held_out else files
        if any(files.values()):
            missing = "train" if not files["train"] else test[0]
            raise DataError(
                f"{where}: {folder} must hold both splits, got neither {missing}.parquet nor {missing}-*.parquet"
            )
    return None


def _parquet_files(folder: Path, name: str) -> list[Path]:
    whole = folder / f"{name}.parquet"
    return [whole] if whole.exists() else sorted(folder.glob(f"{name}-*.parquet"))


def no_data(
    where: str, root: Path, native: str, folders: Sequence[str], advice: str, *, test: str = "test"
) -> DataError:
    """Build the error for a folder without a dataset's own files and parquet files.

    Args:
        where: The dataset.
        root: The folder that was searched.
        native: The files of the dataset's own format.
        folders: Names of the folders in `root` that were searched for parquet files as well.
        advice: What to do.
        test: Name of the test split.

    Returns:
        The error to raise.
    """
    got = "a folder without them" if root.is_dir() else "no such folder"
    also = " or ".join(f"{name}/" for name in folders)
    return DataError(
        f"{where}: {root} must hold {native}, or train.parquet and {test}.parquet (or train-*.parquet and "
        f"{test}-*.parquet, there{f' or in {also}' if also else ''}), got {got}: {advice}"
    )


def read_parquet(
    files: Sequence[Path],
    *,
    shape: tuple[int, int, int],
    num_classes: int,
    label: str = "label",
    convert: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels from parquet files.

    Args:
        files: Paths, read in this order. Each file has a column `img` or `image`, a struct whose field `bytes` is a
            JPEG or PNG file, and an integer column of labels. Files named NAME-00000-of-00002.parquet must be complete.
        shape: (C, H, W) of every image: C = 3 is RGB, C = 1 is grey.
        num_classes: Labels are from 0 to num_classes - 1.
        label: Name of the column of labels.
        convert: Whether to convert other kinds of images; see `decode_image`.

    Returns:
        The images, uint8 (N, C, H, W), and the labels, int64 (N,).

    Raises:
        DataError: If a file, column, image or label is missing or wrong. It names the file and the row, from 0.
    """
    parts = []
    for file, encoded, labels in read_columns(files, label=label):
        check_labels(file, labels, num_classes)
        # One thread: at 32x32 the decoder holds the GIL most of the time, and two threads measured slower than one.
        images = np.empty((len(encoded), *shape), np.uint8)
        for row, data in enumerate(encoded):
            images[row] = decode_image(data, shape, where=f"{file}, row {row}", convert=convert)
        parts.append((images, np.array(labels, np.int64)))
    all_images, all_labels = zip(*parts, strict=True)
    return np.concatenate(all_images), np.concatenate(all_labels)


def check_labels(file: Path, labels: Sequence[int | None], num_classes: int) -> list[int]:
    """Check that the labels of a file are from 0 to num_classes - 1.

    Returns:
        The labels.

    Raises:
        DataError: For the first row with another label.
    """
    checked = []
    for row, label in enumerate(labels):
        if label is None or not 0 <= label < num_classes:
            raise DataError(f"{file}, row {row}: label must be from 0 to {num_classes - 1}, got {label}")
        checked.append(label)
    return checked


def read_columns(
    files: Sequence[Path], *, label: str = "label"
) -> Iterator[tuple[Path, list[bytes | None], list[int | None]]]:
    """Read the encoded images and the labels of parquet files, without decoding.

    Args:
        files: Paths, as for `read_parquet`.
        label: Name of the column of labels.

    Yields:
        Each file with the bytes of its images and its labels, two lists of the same length.

    Raises:
        DataError: If a file is missing, unreadable, empty or has other columns.
    """
    for file in files:
        shard = re.search(r"-of-(\d+)(-[0-9a-f]+)?\.parquet$", file.name)
        if shard and len(files) != int(shard[1]):
            raise DataError(
                f"{file.parent}: must hold all {int(shard[1])} parts that {file.name} belongs to, got {len(files)}"
            )
    for file in files:
        yield file, *_columns(file, label)


def _columns(file: Path, label: str) -> tuple[list[bytes | None], list[int | None]]:
    import pyarrow as pa  # lazy: most datasets do not need it
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            name = next((name for name in ("img", "image") if name in schema.names), None)
            if name is None or label not in schema.names:
                raise DataError(f"{file}: must have the columns img (or image) and {label}, got {schema.names}")
            image_type, label_type = schema.field(name).type, schema.field(label).type
            if not (pa.types.is_struct(image_type) and image_type.get_field_index("bytes") >= 0):
                raise DataError(f"{file}: column {name} must be a struct with the field bytes, got {image_type}")
            bytes_type = image_type.field("bytes").type
            if not (pa.types.is_binary(bytes_type) or pa.types.is_large_binary(bytes_type)):
                raise DataError(f"{file}: column {name}'s field bytes must be of a binary type, got {bytes_type}")
            if not pa.types.is_integer(label_type):
                raise DataError(f"{file}: column {label} must be of an integer type, got {label_type}")
            table = parquet.read(columns=[f"{name}.bytes", label])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: must be a readable parquet file, got {one_line(error)}") from error
    if table.num_rows == 0:
        raise DataError(f"{file}: must have at least one row, got none")
    images = table[name].to_pylist()
    return [image and image["bytes"] for image in images], table[label].to_pylist()
