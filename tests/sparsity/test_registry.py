import subprocess
import sys

import pytest

import sparsity


def test_loads_a_method_by_its_file_name():
    assert sparsity.load("regularizers", "wcr").__name__ == "WCR"
    assert sparsity.load("criteria", "magnitude").__name__ == "magnitude"
    assert sparsity.find("sparsity.optimizers", "sam") is sparsity.load("optimizers", "sam")


def test_the_menu_is_the_sorted_listing_without_helpers(tmp_path, monkeypatch):
    folder = tmp_path / "cuisine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "_helper.py").write_text("raise RuntimeError('imported')")
    for dish in ("soup", "cake"):
        (folder / f"{dish}.py").write_text("raise RuntimeError('imported')")
    (folder / "tea.py").write_text("__all__ = ['Tea']\nTea = 'green'\n")
    (folder / "notes.txt").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert sparsity.choices("cuisine") == ["cake", "soup", "tea"]
    assert sparsity.find("cuisine", "tea") == "green"
    with pytest.raises(ValueError, match=r"^cuisine: name must be one of cake, soup, tea, got 'coffee'$"):
        sparsity.find("cuisine", "coffee")
    with pytest.raises(RuntimeError, match="imported"):  # an error inside a method is not hidden
        sparsity.find("cuisine", "soup")


def test_unknown_kind_or_name_says_what_is_valid():
    choices = ", ".join(sparsity.names("regularizers"))
    with pytest.raises(ValueError, match=rf"^regularizers: name must be one of {choices}, got 'foo'$"):
        sparsity.load("regularizers", "foo")
    with pytest.raises(ValueError, match=r"^regularizers: name must be one of .*, got '_base'$"):
        sparsity.load("regularizers", "_base")
    for call in (lambda: sparsity.names("colors"), lambda: sparsity.load("colors", "red")):
        with pytest.raises(
            ValueError, match=r"^sparsity: kind must be one of criteria, optimizers, regularizers, got 'col"
        ):
            call()
    for package in ("no_such_package", "no_such_package.inside", "sparsity.no_such", "sparsity.masks"):
        with pytest.raises(ValueError, match=rf"^choices: package must be an importable package .*, got '{package}'$"):
            sparsity.choices(package)


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
    assert out.strip() == "['sparsity', 'sparsity.registry']"
