"""Cached copies of downloaded datasets.

The cache is `$XDG_CACHE_HOME/sparsity-sweeps/` (`~/.cache` by default).
"""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from trainables.data.errors import DataError
from trainables.errors import one_line

__all__ = ["cached_download"]


def cached_download(
    name: str,
    folder: str,
    *,
    url: str,
    download: Callable[[Path], object],
    is_complete: Callable[[Path], bool],
) -> Path:
    """Return a folder of the cache, downloaded unless a complete copy exists.

    The download goes to a temporary folder that is renamed when it is complete. An interrupted download therefore
    leaves nothing under the final name, and processes that download at the same time end with one complete copy.

    Args:
        name: The dataset, which has a folder of its own in the cache.
        folder: Name of the folder that the download creates.
        url: Where the data comes from, for the error message.
        download: Called with a path; creates `folder` in it.
        is_complete: Called with the path of `folder`; whether all of its files exist and are intact.

    Returns:
        The path of `folder`.

    Raises:
        DataError: If the download fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparsity-sweeps" / name
    final = cache / folder
    if is_complete(final):
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="partial-") as partial:
            download(Path(partial))
            if not is_complete(final):
                shutil.rmtree(final, ignore_errors=True)
                with suppress(OSError):  # another process finished first: use its copy
                    (Path(partial) / folder).rename(final)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        raise DataError(
            f"{name}: the data must be downloadable from {url} to {cache}, got {one_line(error)}: connect to "
            "the network, name a folder with the data by --data-root, or run python -m sweeps.digits, which needs none"
        ) from error
    return final
