"""A folder's listing is its menu: methods are found by their file name, without a registry.

Files with a leading underscore are helpers and not on the menu. A file's `__all__` names its one public object.
"""

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterable
from typing import Any

__all__ = ["choices", "find", "load", "names"]


def choices(package: str) -> list[str]:
    """Sorted names that can be found in `package`, a dotted name such as "trainables.tasks"; imports none of them.

    ValueError if there is no such package.
    """
    try:
        spec = importlib.util.find_spec(package)  # imports the parent package alone
    except ModuleNotFoundError as error:
        if not f"{package}.".startswith(f"{error.name}."):
            raise  # the parent exists and lacks something it needs
        spec = None
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"choices: package must be an importable package (a folder of methods), got {package!r}")
    return _listing(spec.submodule_search_locations)


def find(package: str, name: str) -> Any:
    """The public object of the file `name` in `package`: find("trainables.tasks", "cnn").

    ValueError, with the valid names, if `name` is not on the package's menu.
    """
    _check_choice(package.rpartition(".")[2], "name", choices(package), name)
    module = importlib.import_module(f"{package}.{name}")
    (public,) = module.__all__
    return getattr(module, public)


def names(kind: str) -> list[str]:
    """Sorted names of the methods of a kind: names("criteria"). ValueError, with the valid kinds, if unknown."""
    _check_choice("sparsity", "kind", _listing([os.path.dirname(__file__)], folders=True), kind)
    return choices(f"sparsity.{kind}")


def load(kind: str, name: str) -> Any:
    """The method (class or function) of a kind: load("regularizers", "wcr") is the class WCR.

    ValueError, with the valid choices, for an unknown kind or name.
    """
    names(kind)  # refuses an unknown kind
    return find(f"sparsity.{kind}", name)


def _listing(paths: Iterable[str], *, folders: bool = False) -> list[str]:
    modules = pkgutil.iter_modules(paths)
    return sorted(m.name for m in modules if not m.name.startswith("_") and (m.ispkg or not folders))


def _check_choice(where: str, what: str, choices: list[str], choice: str) -> None:
    if choice not in choices:
        raise ValueError(f"{where}: {what} must be one of {', '.join(choices)}, got {choice!r}")
