"""Code of the user's own on the hosts that train: copied once, into the sweep's folder, which every host sees."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sparsity.import_strings import is_import_string, make_importable, use_source, write_source
from trainables.config import TrialConfig
from trainables.pruning_method import PruningMethod

__all__ = ["OwnCode", "WithOwnCode", "criterion_sources", "sources_of", "use_sources", "write_sources"]

FOLDER = "code"  # in a sweep's folder


def sources_of(config: TrialConfig) -> dict[str, str]:
    """The digest of each import string of a configuration, those of its pruning methods included."""
    return {**config.sources, **criterion_sources((config, *config.more_pruning))}


def criterion_sources(methods: Iterable[PruningMethod]) -> dict[str, str]:
    """The digest of each criterion that is named by an import string."""
    return {m.criterion: m.criterion_source for m in methods if is_import_string(m.criterion)}


def write_sources(names: Mapping[str, str], sweep: Path) -> None:
    """Copy the sources of import strings into a sweep's folder."""
    for name in names:
        write_source(name, sweep / FOLDER)


def use_sources(names: Mapping[str, str], sweep: Path) -> None:
    """Load import strings from the copies in a sweep's folder, unless their own files are the same.

    Args:
        names: The digest of each import string.
        sweep: The sweep's folder.
    """
    for name, digest in names.items():
        use_source(name, digest, sweep / FOLDER)


class OwnCode:
    """Makes import strings loadable in the process that unpickles it."""

    def __init__(self, names: Mapping[str, str], sweep: Path):
        self.names, self.sweep = dict(names), sweep

    def __reduce__(self) -> Any:
        return load_own_code, (self.names, self.sweep)


def load_own_code(names: Mapping[str, str], sweep: Path) -> OwnCode:
    use_sources(names, sweep)
    make_importable(names)
    return OwnCode(names, sweep)


class WithOwnCode:
    """Data that may be of an own class: pickled after its code, and unpickled as the plain data."""

    def __init__(self, code: OwnCode, data: Any):
        self.code, self.data = code, data

    def __reduce__(self) -> Any:
        return data_of, (self.code, self.data)  # unpickled in this order


def data_of(code: OwnCode, data: Any) -> Any:
    return data
