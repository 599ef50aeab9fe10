"""Code of your own, named by an import string: `module:attribute` or `path/to/file.py:attribute`.

The working folder is importable. A file outside a package is the module of its name, with its folder importable; a file
in a package is that package's module.

An import string has a source: its file, and the modules of the same folder or top-level package that this file
imports, directly or not. The source's digest identifies the code. `write_source` copies a source, and `use_source` lets
a copy take the place of the files, which may be missing on another machine or have changed since.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sparsity._source_files import MANIFEST, Source, find_module, local_files, read_copy, source_of_file, stamp_of

__all__ = [
    "Source",
    "check_import_string",
    "is_import_string",
    "load_import_string",
    "make_importable",
    "own_frame",
    "pinned_sources",
    "short_name",
    "source_of",
    "use_source",
    "write_source",
]

ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


_sources: dict[str, tuple[tuple, Source]] = {}  # by import string, with the state of its files when they were read
_copies: dict[str, Path] = {}  # by import string: the folder to load it from
_imported: dict[str, tuple[Source, ModuleType]] = {}  # by import string without the attribute
_pins = 0  # while above 0, sources are not read again


def is_import_string(name: str) -> bool:
    """Whether a name is an import string rather than that of a file of this project."""
    return ":" in name


def short_name(name: str) -> str:
    """The last part of an import string, for tables: "nets:build" of "/home/me/nets.py:build" or "lab.nets:build".

    Other names are returned as they are.
    """
    if not is_import_string(name):
        return name
    module, _, attribute = name.rpartition(":")
    return f"{Path(module).stem if is_path(module) else module.rpartition('.')[2]}:{attribute}"


def check_import_string(name: str, where: str) -> str:
    """The import string with an absolute path. Nothing is imported, and the file need not exist.

    Raises:
        ValueError: If it is not of the form MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE.
    """
    module, _, attribute = name.rpartition(":")
    if not ATTRIBUTE.fullmatch(attribute) or not (is_path(module) or ATTRIBUTE.fullmatch(module)):
        raise ValueError(f"{where}: an import string must be MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE, got {name!r}")
    if module == "__main__":
        raise ValueError(
            f"{where}: {attribute} must be in a file of its own (other processes import it, and a script or notebook "
            f"has no name that they could import), got {name!r}"
        )
    if not is_path(module):
        return name
    return f"{os.path.abspath(os.path.expanduser(module))}:{attribute}"


def is_path(module: str) -> bool:
    return module.endswith(".py")


def source_of(name: str, where: str = "name") -> Source:
    """Read the source of an import string. The file is found, but nothing is imported.

    Raises:
        ValueError: If there is no such module or file.
    """
    if name in _sources:
        stamp, source = _sources[name]
        if _pins or stamp == stamp_of(source):
            return source
    source = read_copy(_copies[name]) if name in _copies else read_source(name, where)
    _sources[name] = stamp_of(source), source
    return source


@contextlib.contextmanager
def pinned_sources() -> Iterator[None]:
    """Keep every source that is read in this context as it is, even if its files change."""
    global _pins
    _pins += 1
    try:
        yield
    finally:
        _pins -= 1


def write_source(name: str, folder: Path) -> None:
    """Copy the source of an import string to `folder/DIGEST`, for `use_source`, unless it is there or installed."""
    source = source_of(name)
    target = folder / source.digest
    if not source.root or (target / MANIFEST).exists():
        return
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for file, text in source.files.items():
        path = partial / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    entry = os.path.relpath(source.file, source.root)
    (partial / MANIFEST).write_text(json.dumps({"module": source.module, "file": entry}))
    with contextlib.suppress(OSError):  # another process was faster
        partial.rename(target)
    shutil.rmtree(partial, ignore_errors=True)


def use_source(name: str, digest: str, folder: Path) -> None:
    """Load an import string from its copy in `folder/digest`, unless its own files are those that were copied.

    Raises:
        ValueError: If there is neither.
    """
    with contextlib.suppress(ValueError):
        if source_of(name).digest == digest:
            return
    if not (folder / digest / MANIFEST).exists():
        raise ValueError(
            f"{short_name(name)}: must be the code that the trial was trained with (its digest is {digest}), got other "
            f"code or none, and there is no copy in {folder}: restore its files"
        )
    before = _copies.get(name)
    _copies[name] = folder / digest
    _sources.pop(name, None)
    if before is not None and before not in _copies.values() and str(before) in sys.path:
        sys.path.remove(str(before))


def make_importable(names: Iterable[str]) -> None:
    """Make the modules of import strings importable under their own names, for example to unpickle their objects."""
    for name in names:
        add_to_path(source_of(name))


def add_to_path(source: Source) -> None:
    if source.root and source.root not in sys.path:
        is_copy = Path(source.root, MANIFEST).exists()
        # A copy comes before the working folder, whose files may have changed. A folder of the user's comes last, so
        # that it hides no installed module.
        sys.path.insert(0 if is_copy else len(sys.path), source.root)
    importlib.invalidate_caches()


def load_import_string(name: str, where: str) -> Any:
    """Import what an import string names. A file that has changed since it was imported is imported again.

    Raises:
        ValueError: If there is no such module or attribute, or importing it raises.
    """
    source = source_of(name, where)
    attribute = name.rpartition(":")[2]
    try:
        module = import_source(name.rpartition(":")[0], source)
    except (Exception, SystemExit) as error:  # whatever the code raises
        raise ValueError(f"{where}: {name} must be importable, got {in_one_line(error, source)}") from error
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            public = sorted(n for n, value in vars(module).items() if callable(value) and not n.startswith("_"))
            raise ValueError(
                f"{where}: {name} must exist, got no {attribute} in {source.file or source.module} (it has "
                f"{', '.join(public[:12]) or 'nothing callable'}{', ...' if len(public) > 12 else ''})"
            ) from None
    if not callable(found):
        raise ValueError(f"{where}: {name} must be a function or a class, got {type(found).__name__}")
    return found


def own_frame(error: BaseException) -> str:
    """Where code of a user's own raised an exception, as "file.py, line 3"; "" if no such code was involved."""
    return frame_in(error, [source for source, _ in _imported.values()])


def frame_in(error: BaseException, sources: list[Source]) -> str:
    files = {str(Path(source.root, file)) for source in sources if source.root for file in source.files}
    found, traceback = "", error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file in files:
            found = f"{os.path.basename(file)}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_source(name: str, where: str) -> Source:
    path, _, _ = name.rpartition(":")
    if is_path(path):
        file = Path(check_import_string(name, where).rpartition(":")[0])
        if not file.is_file():
            raise ValueError(f"{where}: {name} must be in a file that exists, got none at {file}")
        return source_of_file(file)
    found, folder = find_module(path, name, where)
    if found is None or not found.endswith(".py"):
        return Source(path, "", "", {})
    if folder is None:
        return Source(path, found, "", {os.path.basename(found): Path(found).read_bytes()})
    return Source(path, found, str(folder), local_files(Path(found), folder))


# ---- importing -------------------------------------------------------------------------------------------------------


def import_source(key: str, source: Source) -> ModuleType:
    before, module = _imported.get(key, (None, None))
    if before is not None and module is not None:
        if (before.digest, before.file) == (source.digest, source.file):
            return module
        forget(before)
        del _imported[key]
    writes = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # a cached file would hide a change within the same second
    try:
        module = import_file(source)
    except BaseException:
        forget(source)  # what it imported before it failed
        raise
    finally:
        sys.dont_write_bytecode = writes
    _imported[key] = source, module
    return module


def import_file(source: Source) -> ModuleType:
    if not source.root:
        return importlib.import_module(source.module)
    add_to_path(source)
    try:
        spec = importlib.util.find_spec(source.module)  # imports the package that it is in
    except ModuleNotFoundError as error:
        if not f"{source.module}.".startswith(f"{error.name}."):
            raise  # the package is there, but one of its imports is missing
        spec = None
    except ValueError:  # a module of that name has no spec
        spec = None
    if spec is not None and spec.origin and os.path.realpath(spec.origin) == os.path.realpath(source.file):
        return importlib.import_module(source.module)
    return import_under_another_name(source)


def import_under_another_name(source: Source) -> ModuleType:
    """Import a file whose name is that of another module."""
    name = f"{source.module.rpartition('.')[2]}_{source.digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, source.file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def forget(source: Source) -> None:
    """Remove the modules of a source, so that they are imported again."""
    files = {os.path.realpath(Path(source.root, name)) for name in source.files if source.root}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and os.path.realpath(file) in files:
            del sys.modules[name]


def in_one_line(error: BaseException, source: Source) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    place = frame_in(error, [source])
    return f"{text} ({place})" if place and not isinstance(error, SyntaxError) else text
