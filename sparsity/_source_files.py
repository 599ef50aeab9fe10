"""The files behind an import string: found and read, without importing anything."""

import ast
import contextlib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MANIFEST", "Source", "find_module", "local_files", "read_copy", "source_of_file", "stamp_of"]

OURS = '__distribution__ = "sparsity-sweeps"'  # in the __init__.py of this distribution's packages
MANIFEST = "source.json"  # in a copied source


@dataclass(frozen=True)
class Source:
    """The files behind an import string.

    Attributes:
        module: The name under which its file is imported.
        file: The file that defines the attribute; "" for a module that has no Python file.
        root: The folder that makes the module importable; "" for an installed module, which is importable anyway.
        files: The text of each file, by its path relative to `root`.
    """

    module: str
    file: str
    root: str
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify the module and the contents of all files."""
        digest = hashlib.sha256(self.module.encode())
        for name in sorted(self.files):
            digest.update(f"\0{name}\0{len(self.files[name])}\0".encode() + self.files[name])
        return digest.hexdigest()[:16]


def source_of_file(file: Path) -> Source:
    """A file and what it imports from its folder or, in a package, from the package."""
    root, module = file.parent, file.stem
    while (root / "__init__.py").exists():
        root, module = root.parent, f"{root.name}.{module}"
    return Source(module.removesuffix(".__init__"), str(file), str(root), local_files(file, root))


def find_module(path: str, name: str, where: str) -> tuple[str | None, Path | None]:
    """The file of a module, and the folder that makes it importable, None if it is installed."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there must not hide an installed module
    importlib.invalidate_caches()
    top, *rest = path.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: it has no spec, like __main__
        spec = None
    locations = list(spec.submodule_search_locations or ()) if spec else []
    root: Path | None = None
    if locations:
        root = Path(locations[0]).parent
    elif spec and spec.origin:
        root = Path(spec.origin).parent
    found = top
    for part in rest:
        found = f"{found}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(found, locations) if locations else None
        locations = list(spec.submodule_search_locations or ()) if spec else []
        if spec is None:
            break
    if spec is None:
        raise ValueError(
            f"{where}: {name} must be importable, got no module {found} in the working folder {os.getcwd()} or on "
            "Python's path"
        )
    return spec.origin, None if root is None or is_installed(root) else root


def is_installed(root: Path) -> bool:
    """Whether a folder belongs to Python or to installed packages."""
    paths = sysconfig.get_paths()
    own = {Path(paths[key]).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return root.resolve() in own or {"site-packages", "dist-packages"} & set(root.parts) != set()


def local_files(entry: Path, root: Path) -> dict[str, bytes]:
    """The text of a file and of everything below `root` that it imports, by relative path."""
    found: dict[str, bytes] = {}
    left = [entry]
    while left:
        file = left.pop()
        relative = os.path.relpath(file, root)
        if relative in found:
            continue
        found[relative] = file.read_bytes()
        left += [package / "__init__.py" for package in packages_of(file, root)]
        left += [each for name in imported_names(found[relative], relative) for each in files_of(name, root)]
    return found


def packages_of(file: Path, root: Path) -> list[Path]:
    inside = [folder for folder in file.parents if folder != root and folder.is_relative_to(root)]
    return [folder for folder in inside if (folder / "__init__.py").is_file() and not is_ours(root, folder)]


def imported_names(text: bytes, relative: str) -> Iterator[str]:
    """The dotted names that a file may import, those of attributes included."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # importing the file reports it
        return
    package = Path(relative).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *([node.module] if node.module else [])))
            yield from (f"{stem}.{alias.name}".strip(".") for alias in node.names)


def files_of(name: str, root: Path) -> list[Path]:
    """The files below `root` that `import name` runs; without those of this project."""
    folder, found = root, []
    for part in name.split("."):
        file = folder / f"{part}.py"
        folder = folder / part
        if (folder / "__init__.py").is_file() and not is_ours(root, folder):
            found.append(folder / "__init__.py")
        elif file.is_file() and not is_ours(root, file.parent):
            found.append(file)
    return found


def is_ours(root: Path, folder: Path) -> bool:
    """Whether a folder is in one of this project's packages, whose version is recorded elsewhere."""
    if folder == root:
        return False
    top = root / folder.relative_to(root).parts[0] / "__init__.py"
    return top.is_file() and OURS in top.read_text(errors="replace")


def read_copy(folder: Path) -> Source:
    manifest = json.loads((folder / MANIFEST).read_text())
    files = {os.path.relpath(path, folder): path.read_bytes() for path in sorted(folder.rglob("*.py"))}
    return Source(manifest["module"], str(folder / manifest["file"]), str(folder), files)


def stamp_of(source: Source) -> tuple:
    """What changes when a file does."""
    paths = [Path(source.root, name) for name in sorted(source.files)] if source.root else [Path(source.file or ".")]
    stamp = []
    for path in paths:
        with contextlib.suppress(OSError):
            stat = path.stat()
            stamp.append((str(path), stat.st_mtime_ns, stat.st_size))
    return tuple(stamp)
