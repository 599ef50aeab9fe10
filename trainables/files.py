"""Writing files so that a reader never sees half of one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["write_atomically"]


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
