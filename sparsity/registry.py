"""Methods found by their file names; a new file in a folder needs no registration.

Files whose name starts with an underscore are helpers and not listed. The `__all__` of every other file names its one
public object. An import string names code of your own instead (see `sparsity.import_strings`). `timm/resnet50` is
served by the file `timm.py`, whose function takes the rest as its first argument, `name`.
"""

import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import time
from collections.abc import Iterable
from typing import Any

from sparsity.import_strings import check_import_string, is_import_string, load_import_string

__all__ = ["check", "load", "name_of", "names"]


def names(kind: str) -> list[str]:
    """Return the names of the methods of a kind, sorted, without importing them.

    Args:
        kind: "criteria", "optimizers" or "regularizers", or the dotted name of any package with one method per file,
            such as "trainables.tasks".

    Raises:
        ValueError: If there is no such kind or package.
    """
    return _listing(_find_folder(kind)[1])


def check(kind: str, name: str, where: str) -> str:
    """Check a name without importing what it names.

    Args:
        kind: See `names`.
        name: The name of a file, FILE/NAME for a file that serves many, or an import string.
        where: What is named, for the error message.

    Returns:
        The name. The path of an import string is absolute.

    Raises:
        ValueError: If there is no file of that name, or an import string is malformed.
    """
    if is_import_string(name):
        return check_import_string(name, where)
    choices = names(kind)
    if name.partition("/")[0] not in choices:
        raise ValueError(f"{where}: must be one of {', '.join(choices)}, got {name!r}")
    return name


def name_of(kind: str, given: Any, where: str) -> str:
    """Return the name of a class or function: `name_of("regularizers", WCR, "regularizer")` is "wcr".

    Args:
        kind: See `names`.
        given: A class or function at the top level of a module. A text is a name already and returned as it is.
        where: What is named, for the error message.

    Returns:
        The name of its file if it is a method of this project, and otherwise an import string, MODULE:ATTRIBUTE.

    Raises:
        ValueError: If other processes could not import it: it is defined in a function, a script or a notebook, or is
            neither class nor function.
    """
    if isinstance(given, str):
        return given
    if not (inspect.isclass(given) or inspect.isfunction(given)):
        raise ValueError(f"{where}: must be a name, an import string, a class or a function, got {given!r}")
    module, attribute = given.__module__, given.__qualname__
    package = _find_folder(kind)[0]
    file = module.removeprefix(f"{package}.")
    if module == f"{package}.{file}" and file in names(kind):
        return file
    name = f"{module}:{attribute}"
    if attribute == "<lambda>" or "<locals>" in attribute:
        raise ValueError(
            f"{where}: must be at the top level of a file, not inside a function (other processes import it by its "
            f"name), got {name!r}"
        )
    check_import_string(name, where)
    found: Any = sys.modules.get(module)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is not given:
        raise ValueError(
            f"{where}: must be what its module has under its own name (other processes import it by that name), got "
            f"another object than {name!r}"
        )
    return name


def load(kind: str, name: str) -> Any:
    """Return a method, a class or a function: `load("regularizers", "wcr")` is the class WCR.

    Args:
        kind: See `names`.
        name: Name of the method's file; FILE/NAME for a file that serves many; or an import string.

    Raises:
        ValueError: If there is no such kind or package, no such method in it, or an import string names nothing of that
            kind.
    """
    package, paths = _find_folder(kind)
    where = package.rpartition(".")[2]
    if is_import_string(name):
        found = load_import_string(check_import_string(name, where), where)
        _check_base(package, found, f"{where}: {name}")
        return found
    file, slash, rest = name.partition("/")
    valid = _listing(paths)
    if file not in valid:
        raise ValueError(f"{where}: name must be one of {', '.join(valid)}, got {name!r}")
    module = importlib.import_module(f"{package}.{file}")
    (public,) = module.__all__
    found = getattr(module, public)
    if not (rest if takes_name(found) else not slash):
        expected = f"{file}/NAME (with the name of one of its networks)" if takes_name(found) else file
        raise ValueError(f"{where}: name must be {expected}, got {name!r}")
    if not slash:
        return found
    made = functools.partial(found, rest)
    made.__name__ = name  # type: ignore[attr-defined]
    return made


def takes_name(method: Any) -> bool:
    """Whether a file's function serves many names: its first argument is `name`."""
    return inspect.isfunction(method) and next(iter(inspect.signature(method).parameters), "") == "name"


def _check_base(package: str, found: Any, where: str) -> None:
    """Raise ValueError if an own class does not derive from the class that its kind needs (BASE of the package)."""
    needed = getattr(importlib.import_module(package), "BASE", None)
    if needed is None:
        return
    module, _, attribute = needed.partition(":")
    base = getattr(importlib.import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, base)):
        kind = "a class that does not" if isinstance(found, type) else f"a {type(found).__name__}"
        raise ValueError(f"{where} must be a class that derives from {module}.{attribute}, got {kind}")


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
