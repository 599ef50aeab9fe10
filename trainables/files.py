"""Writing a trial's files so that a reader never sees half of one, and telling why they cannot be written."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from trainables.errors import first_line

__all__ = ["StorageError", "storage_errors", "write_atomically"]


class StorageError(RuntimeError):
    """The trial's folder cannot be written: full, read-only or gone."""


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn an error of the operating system into StorageError. safetensors has a type of its own for them.

    Wrap what reads and writes the trial's own files and nothing else: the sweep starts no more trials after it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the trial's files cannot be written: {first_line(error)}") from error


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
