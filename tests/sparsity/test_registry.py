import os
import pkgutil
import subprocess
import sys

import pytest

import sparsity


def test_load_returns_the_public_object_of_a_file():
    assert sparsity.load("regularizers", "wcr").__name__ == "WCR"
    assert sparsity.load("criteria", "magnitude").__name__ == "magnitude"
    assert sparsity.load("sparsity.optimizers", "sam") is sparsity.load("optimizers", "sam")


def test_names_are_the_sorted_files_without_helpers(tmp_path, monkeypatch):
    folder = tmp_path / "cuisine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "_helper.py").write_text("raise RuntimeError('imported')")
    for dish in ("soup", "cake"):
        (folder / f"{dish}.py").write_text("raise RuntimeError('imported')")
    (folder / "tea.py").write_text("__all__ = ['Tea']\nTea = 'green'\n")
    (folder / "notes.txt").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert sparsity.names("cuisine") == ["cake", "soup", "tea"]
    assert sparsity.load("cuisine", "tea") == "green"
    with pytest.raises(ValueError, match=r"^cuisine: name must be one of cake, soup, tea, got 'coffee'$"):
        sparsity.load("cuisine", "coffee")
    with pytest.raises(RuntimeError, match="imported"):  # an error inside a method is not hidden
        sparsity.load("cuisine", "soup")


def test_a_folder_is_listed_again_only_after_it_changed(tmp_path, monkeypatch):
    folder = tmp_path / "drinks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    listed, real = [], pkgutil.iter_modules
    monkeypatch.setattr(pkgutil, "iter_modules", lambda paths: listed.append(list(paths)) or real(paths))
    assert sparsity.names("drinks") == []
    (folder / "tea.py").touch()  # within the same tick of the file system's clock, perhaps
    assert sparsity.names("drinks") == ["tea"]
    os.utime(folder, (1e9, 1e9))
    assert sparsity.names("drinks") == ["tea"]
    num = listed.count([str(folder)])
    assert sparsity.names("drinks") == ["tea"]
    assert listed.count([str(folder)]) == num
    (folder / "milk.py").touch()
    assert sparsity.names("drinks") == ["milk", "tea"]


def test_an_unknown_name_raises_with_the_valid_ones():
    valid = ", ".join(sparsity.names("regularizers"))
    with pytest.raises(ValueError, match=rf"^regularizers: name must be one of {valid}, got 'foo'$"):
        sparsity.load("regularizers", "foo")
    with pytest.raises(ValueError, match=r"^regularizers: name must be one of .*, got '_base'$"):
        sparsity.load("regularizers", "_base")


@pytest.mark.parametrize("kind", ["colors", "no_such_package.inside", "sparsity.no_such", "sparsity.masks"])
def test_an_unknown_kind_raises_with_the_valid_ones(kind):
    message = (
        r"^sparsity: kind must be one of criteria, optimizers, regularizers, "
        rf"or an importable package of methods, got '{kind}'$"
    )
    for call in (lambda: sparsity.names(kind), lambda: sparsity.load(kind, "red")):
        with pytest.raises(ValueError, match=message):
            call()


def test_listing_imports_neither_torch_nor_the_methods():
    code = """
import sys, sparsity
for kind in ("criteria", "optimizers", "regularizers"):
    assert sparsity.names(kind)
try:
    sparsity.load("optimizers", "foo")
except ValueError:
    pass
print(sorted(m for m in sys.modules if m.startswith(("torch", "numpy", "sparsity"))))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['sparsity', 'sparsity._source_files', 'sparsity.import_strings', 'sparsity.registry']"


# ---- names of objects --------------------------------------------------------------------------------------------


def test_the_name_of_a_method_is_its_file():
    from sparsity.criteria.magnitude import magnitude
    from sparsity.regularizers.wcr import WCR

    assert sparsity.registry.name_of("regularizers", WCR, "regularizer") == "wcr"
    assert sparsity.registry.name_of("criteria", magnitude, "criterion") == "magnitude"
    assert sparsity.registry.name_of("criteria", "anything", "criterion") == "anything"


def test_the_name_of_other_code_is_its_import_string(tmp_path, monkeypatch):
    (tmp_path / "named_nets.py").write_text(
        "import functools\ndef build(): ...\nclass Zoo:\n    class Net: ...\n"
        "alias = functools.wraps(build)(lambda: None)\ndef make():\n    def inner(): ...\n    return inner\n"
        "mirror = lambda: None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import named_nets  # type: ignore[import-not-found]

    def name(given):
        return sparsity.registry.name_of("trainables.architectures", given, "architecture")

    assert name(named_nets.build) == "named_nets:build"
    assert name(named_nets.Zoo.Net) == "named_nets:Zoo.Net"
    for given, message in {
        named_nets.make(): "must be at the top level of a file, .*, got 'named_nets:make.<locals>",
        named_nets.mirror: "must be at the top level of a file, .*, got 'named_nets:<lambda>'",
        named_nets.alias: "must be what its module has .*, got another object than 'named_nets:build",
        named_nets.Zoo(): "must be a name, an import string, a class or a function, got <named_nets.Zoo object",
        3: "must be a name, an import string, a class or a function, got 3",
    }.items():
        with pytest.raises(ValueError, match=f"^architecture: {message}"):
            name(given)


def test_an_object_of_a_script_or_notebook_is_refused():
    code = (
        "import sparsity.registry\nclass Net: ...\n"
        "try:\n    sparsity.registry.name_of('trainables.architectures', Net, 'architecture')\n"
        "except ValueError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("architecture: Net must be in a file of its own (other processes import it, and a sc")
