"""The cached copies of downloaded data sets, in `$XDG_CACHE_HOME/sparsity-sweeps/` (`~/.cache` by default)."""

import os
import shutil
import tarfile
import tempfile
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from trainables.data.images import DataError
from trainables.errors import one_line

__all__ = ["downloaded"]


def downloaded(name, folder, *, url, download, is_whole):
    """The path of `folder` in the cache of data set `name`, downloaded if it is not there or not whole.

    download: a function that makes it inside the folder given; is_whole: whether a path is it, all of it and unchanged.
    It is made in a temporary folder and moved when it is complete, so that an interrupted download leaves nothing under
    the final name, and processes that download at the same time end with one whole copy.
    DataError, with the url, if that fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparsity-sweeps" / name
    final = cache / folder
    if is_whole(final):
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="partial-") as partial:
            download(Path(partial))
            if not is_whole(final):
                shutil.rmtree(final, ignore_errors=True)
                with suppress(OSError):  # another process was first: its copy is used
                    (Path(partial) / folder).rename(final)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        raise DataError(
            f"{name}: the data must be downloadable from {url} to {cache}, got {one_line(error)}: connect to "
            "the network, name a folder with the data by --data-root, or run python -m sweeps.digits, which needs none"
        ) from error
    return final
