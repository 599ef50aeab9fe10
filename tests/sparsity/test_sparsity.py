"""The contract of every file of every folder: one public object, documented, with its source."""

import importlib
import inspect

import pytest

import sparsity

KINDS = ["criteria", "optimizers", "regularizers"]
METHODS = [(kind, name) for kind in KINDS for name in sparsity.names(kind)]
WITHOUT_A_SOURCE = {("criteria", "random"), ("regularizers", "none")}  # control arms that no paper owns


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_one_public_object_with_a_docstring_and_its_source(kind, name):
    module = importlib.import_module(f"sparsity.{kind}.{name}")
    assert len(module.__all__) == 1
    public = sparsity.load(kind, name)
    assert public.__module__ == module.__name__
    assert public.__doc__
    if (kind, name) not in WITHOUT_A_SOURCE:
        assert "Source: " in public.__doc__


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_knobs_are_keywords(kind, name):
    parameters = list(inspect.signature(sparsity.load(kind, name)).parameters.values())
    num_positional = {"criteria": 1, "optimizers": 2, "regularizers": 1}[kind]
    kinds = [p.kind for p in parameters]
    assert all(k is inspect.Parameter.POSITIONAL_OR_KEYWORD for k in kinds[:num_positional])
    assert all(k in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD) for k in kinds[num_positional:])
