"""Writing a trial's files so that a reader never sees half of one, and telling why they cannot be written."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trainables.errors import first_line

__all__ = ["StorageError", "new_folder", "storage_errors", "write_atomically"]


class StorageError(RuntimeError):
    """The trial's folder cannot be read or written: full, read-only or gone."""


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn an error of the operating system into StorageError. safetensors has a type of its own for them.

    Wrap what reads and writes the trial's own files and nothing else: the sweep starts no more trials after it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the trial's files cannot be read or written: {first_line(error)}") from error


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a temporary file beside `path`, then rename it: readers see the old file or the new one, never a part.

    Args:
        path: The file. Its folder is created if necessary.
        write: Writes the content to the path that it gets.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a new folder: all of it or nothing.

    Yields:
        A temporary folder beside it, which is renamed at the end of the context and deleted after an exception.

    Raises:
        FileExistsError: If the folder exists.
    """
    if folder.exists():
        raise FileExistsError(f"folder: must not exist yet, got {folder}: remove it, or choose another one")
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process with the same id
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
