"""Methods found by their file names; a new file in a folder needs no registration.

Files whose name starts with an underscore are helpers and not listed. The `__all__` of every other file names its one
public object.
"""

import functools
import importlib
import importlib.util
import os
import pkgutil
import time
from collections.abc import Iterable
from typing import Any

__all__ = ["load", "names"]


def names(kind: str) -> list[str]:
    """Return the names of the methods of a kind, sorted, without importing them.

    Args:
        kind: "criteria", "optimizers" or "regularizers", or the dotted name of any package with one method per file,
            such as "trainables.tasks".

    Raises:
        ValueError: If there is no such kind or package.
    """
    return _listing(_find_folder(kind)[1])


def load(kind: str, name: str) -> Any:
    """Return a method, a class or a function: `load("regularizers", "wcr")` is the class WCR.

    Args:
        kind: See `names`.
        name: Name of the method's file.

    Raises:
        ValueError: If there is no such kind or package, or no such method in it.
    """
    package, paths = _find_folder(kind)
    valid = _listing(paths)
    if name not in valid:
        raise ValueError(f"{package.rpartition('.')[2]}: name must be one of {', '.join(valid)}, got {name!r}")
    module = importlib.import_module(f"{package}.{name}")
    (public,) = module.__all__
    return getattr(module, public)


def _find_folder(kind: str) -> tuple[str, Iterable[str]]:
    """Return the name of a kind's package, and its folders."""
    own = [os.path.dirname(__file__)]
    kinds = _listing(own, packages_only=True)
    package = f"sparsity.{kind}" if kind in kinds else kind
    try:
        spec = importlib.util.find_spec(package)  # imports only the parent package
    except ModuleNotFoundError as error:
        if not f"{package}.".startswith(f"{error.name}."):
            raise  # the parent exists, but one of its imports is missing
        spec = None
    if spec is None or spec.submodule_search_locations is None:
        valid = ", ".join(kinds)
        raise ValueError(f"sparsity: kind must be one of {valid}, or an importable package of methods, got {kind!r}")
    return package, spec.submodule_search_locations


def _listing(paths: Iterable[str], *, packages_only: bool = False) -> list[str]:
    return sorted({name for path in paths for name in _names_in(path, packages_only)})


def _names_in(path: str, packages_only: bool) -> tuple[str, ...]:
    """The public modules in a folder.

    A listing is kept until the folder changes: each check of a trial's configuration asks for a dozen. One second must
    have passed since the last change, because a file system may give two changes the same time.
    """
    try:
        changed = os.stat(path).st_mtime_ns
    except OSError:  # no folder, for example a zip file
        return _read_names(path, packages_only)
    if abs(time.time_ns() - changed) < 1e9:
        return _read_names(path, packages_only)
    return _kept_names(path, packages_only, changed)


def _read_names(path: str, packages_only: bool) -> tuple[str, ...]:
    modules = pkgutil.iter_modules([path])
    return tuple(m.name for m in modules if not m.name.startswith("_") and (m.ispkg or not packages_only))


@functools.lru_cache
def _kept_names(path: str, packages_only: bool, changed: int) -> tuple[str, ...]:
    return _read_names(path, packages_only)
