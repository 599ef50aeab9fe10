"""The contract of every file of every folder: one public object, with a documented signature."""

import importlib
import inspect
import runpy
from pathlib import Path

import pytest

import sparsity

KINDS = ["criteria", "optimizers", "regularizers"]
METHODS = [(kind, name) for kind in KINDS for name in sparsity.names(kind)]
WITHOUT_REFERENCE = {("criteria", "random"), ("regularizers", "none")}  # controls, which are nobody's method
methods = pytest.mark.parametrize(("kind", "name"), METHODS)


@methods
def test_a_file_has_one_public_object(kind, name):
    module = importlib.import_module(f"sparsity.{kind}.{name}")
    assert len(module.__all__) == 1
    assert sparsity.load(kind, name).__module__ == module.__name__


@methods
def test_a_docstring_has_a_summary_a_reference_and_a_cost(kind, name):
    """docs/make_methods.py reads these, so every method has its row in docs/methods.md."""
    section = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "make_methods.py"))["section"]
    docstring = inspect.getdoc(sparsity.load(kind, name))
    summary, separator, _ = docstring.partition("\n\n")
    assert separator
    assert 0 < len(summary) < 80
    assert section(docstring, "Cost")
    assert section(docstring, "Reference") or (kind, name) in WITHOUT_REFERENCE


@methods
def test_arguments_are_keywords(kind, name):
    parameters = list(inspect.signature(sparsity.load(kind, name)).parameters.values())
    num_positional = {"criteria": 1, "optimizers": 2, "regularizers": 1}[kind]
    kinds = [p.kind for p in parameters]
    assert all(k is inspect.Parameter.POSITIONAL_OR_KEYWORD for k in kinds[:num_positional])
    assert all(k in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD) for k in kinds[num_positional:])
