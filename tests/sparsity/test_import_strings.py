import os
import shutil
import sys

import pytest

import sparsity
from sparsity.import_strings import (
    check_import_string,
    load_import_string,
    own_frame,
    pinned_sources,
    short_name,
    source_of,
    use_source,
    write_source,
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("_sources", "_copies", "_imported"):
        monkeypatch.setattr(f"sparsity.import_strings.{name}", {})
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(name):
    return load_import_string(name, "architecture")


def test_a_module_of_the_working_folder_a_package_and_a_file(here):
    write(here / "nets_a.py", "import helper_a\nclass Net:\n    def make(): return helper_a.VALUE\n")
    write(here / "helper_a.py", "VALUE = 7\n")
    write(here / "lab_a" / "__init__.py", "")
    write(here / "lab_a" / "more.py", "from . import base\ndef build(): return base.VALUE\n")
    write(here / "lab_a" / "base.py", "VALUE = 8\n")
    assert load("nets_a:Net.make")() == 7
    assert load("nets_a.py:Net") is load("nets_a:Net") is load(f"{here}/nets_a.py:Net")
    assert load("lab_a.more:build")() == 8
    assert load("lab_a/more.py:build") is load("lab_a.more:build")


def test_a_file_with_the_name_of_another_module(here):
    write(here / "random.py", "def build(): return 'mine'\n")
    import random

    assert load("random.py:build")() == "mine"
    assert sys.modules["random"] is random
    assert load("random:shuffle") == random.shuffle


def test_two_files_of_one_name(here):
    for folder in "ab":
        write(here / folder / "nets_b.py", f"def build(): return {folder!r}\n")
    assert [load(f"{folder}/nets_b.py:build")() for folder in "aba"] == ["a", "b", "a"]
    assert load("a/nets_b.py:build") is load("a/nets_b.py:build")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "nets_c:build", "got no module nets_c in the working folder .* or on Python's path"),
        (None, "nets_c.py:build", "must be in a file that exists, got none at .*/nets_c.py"),
        (None, "sparsity.nothing.more:build", "got no module sparsity.nothing"),
        ("def make(): pass\n", "nets_c:build", r"must exist, got no build in .*nets_c.py \(it has make\)"),
        ("build = 3\n", "nets_c:build", "must be a function or a class, got int"),
        ("import os\n\n1 / 0\n", "nets_c:build", r"got ZeroDivisionError: division by zero \(nets_c.py, line 3\)"),
        ("import not_there\n", "nets_c:build", "got ModuleNotFoundError: No module named 'not_there' .*line 1"),
        ("import sys\nsys.exit(3)\n", "nets_c.py:build", r"got SystemExit: 3 \(nets_c.py, line 2\)"),
        ("def (\n", "nets_c.py:build", r"got SyntaxError: .*nets_c.py, line 1"),
    ],
)
def test_faults_are_one_line(here, text, name, message):
    if text is not None:
        write(here / "nets_c.py", text)
    with pytest.raises(ValueError, match=message) as failure:
        load(name)
    assert str(failure.value).startswith("architecture: ")
    assert "\n" not in str(failure.value)
    with pytest.raises(ValueError, match=message):  # a failed import leaves nothing behind
        load(name)


@pytest.mark.parametrize("name", ["nets:", ":build", "nets:a b", "a/b:build", "nets.py:", "1a:b", "http://x:y"])
def test_the_form(name):
    with pytest.raises(ValueError, match=r"^task: an import string must be MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE"):
        check_import_string(name, "task")


def test_a_notebooks_cell_is_refused():
    with pytest.raises(ValueError, match="build must be in a file of its own"):
        check_import_string("__main__:build", "architecture")


def test_paths_become_absolute_and_names_short(here):
    assert check_import_string("nets.py:build", "task") == f"{here}/nets.py:build"
    assert check_import_string("lab.nets:build", "task") == "lab.nets:build"
    assert [short_name(name) for name in ("resnet18", "lab.nets:build", "/a/nets.py:Net.make", "timm/x")] == [
        *("resnet18", "nets:build", "nets:Net.make", "timm/x")
    ]


def test_the_digest_covers_what_is_imported_from_the_same_folder(here):
    files = {
        "nets_d.py": "import numpy\nfrom inside_d import deep\n\ndef build():\n    import helper_d\n",
        "helper_d.py": "",
        "inside_d/__init__.py": "",
        "inside_d/deep.py": "from .deeper import x\n",
        "inside_d/deeper.py": "x = 1\n",
    }
    for name, text in files.items():
        write(here / name, text)
    write(here / "unrelated_d.py", "")
    assert set(source_of("nets_d:build").files) == set(files)
    before = source_of("nets_d:build").digest
    for name, text in files.items():
        write(here / name, f"{text}# changed\n")
        assert source_of("nets_d:build").digest != before, name
        write(here / name, text)
        os.utime(here / name, ns=(1, 1))  # the same text at another time
        assert source_of("nets_d:build").digest == before
    write(here / "unrelated_d.py", "changed = 1\n")
    assert source_of("nets_d:build").digest == before
    assert source_of("nets_d.py:build").digest == source_of("nets_d:other").digest == before
    shutil.copytree(here, here / "elsewhere", ignore=shutil.ignore_patterns("elsewhere"))
    assert source_of("elsewhere/nets_d.py:build").digest == before  # wherever it is


def test_an_installed_module_is_its_file_alone():
    assert list(source_of("sklearn.linear_model:Ridge").files) == ["__init__.py"]
    assert source_of("math:sin").files == {}


def test_a_changed_file_is_imported_again(here):
    write(here / "nets_e.py", "import helper_e\ndef build(): return helper_e.VALUE\n")
    write(here / "helper_e.py", "VALUE = 1\n")
    build = load("nets_e:build")
    assert build() == 1
    assert load("nets_e:build") is build
    write(here / "helper_e.py", "VALUE = 22\n")
    assert load("nets_e:build")() == 22
    with pinned_sources():
        write(here / "helper_e.py", "VALUE = 333\n")
        assert load("nets_e:build")() == 22
    assert load("nets_e:build")() == 333


def test_a_copy_takes_the_place_of_a_changed_or_missing_file(here, tmp_path_factory):
    copies = tmp_path_factory.mktemp("copies")
    write(here / "nets_f.py", "import helper_f\ndef build(): return helper_f.VALUE\n")
    digests = []
    for value in (1, 22):
        write(here / "helper_f.py", f"VALUE = {value}\n")
        write_source("nets_f:build", copies)
        digests.append(source_of("nets_f:build").digest)
    assert load("nets_f:build")() == 22
    use_source("nets_f:build", digests[0], copies)  # as a reused worker gets one configuration after another
    assert source_of("nets_f:build").digest == digests[0]
    assert load("nets_f:build")() == 1
    use_source("nets_f:build", digests[1], copies)
    assert load("nets_f:build")() == 22
    for name in ("nets_f.py", "helper_f.py"):
        (here / name).unlink()
    use_source("nets_f:build", digests[0], copies)
    assert load("nets_f:build")() == 1
    with pytest.raises(ValueError, match="nets_f:build: must be the code that the trial was trained with"):
        use_source("nets_f:build", "0" * 16, copies)


def test_where_own_code_raised(here):
    write(here / "nets_g.py", "def build(x):\n    return x / 0\n")
    build = load("nets_g:build")
    with pytest.raises(ZeroDivisionError) as failure:
        build(1)
    assert own_frame(failure.value) == "nets_g.py, line 2"
    with pytest.raises(ValueError) as failure:  # noqa: PT011 (any)
        int("x")
    assert own_frame(failure.value) == ""


def test_the_registry_checks_what_an_own_class_derives_from(here):
    write(
        here / "pen_h.py", "from sparsity.regularizer import Regularizer\nclass Mine(Regularizer): ...\ndef f(): ...\n"
    )
    assert sparsity.load("regularizers", "pen_h:Mine").__name__ == "Mine"
    message = "regularizers: pen_h:f must be a class that derives from sparsity.regularizer.Regularizer, got a function"
    with pytest.raises(ValueError, match=message):
        sparsity.load("regularizers", "pen_h:f")
    with pytest.raises(ValueError, match=r"must be a class that derives from torch.optim.Optimizer, got a class that"):
        sparsity.load("optimizers", "pen_h:Mine")


def test_a_file_that_serves_many_names(tmp_path, monkeypatch):
    write(tmp_path / "teas" / "__init__.py", "")
    write(tmp_path / "teas" / "shop.py", "__all__ = ['shop']\ndef shop(name, *, milk=False): return name, milk\n")
    write(tmp_path / "teas" / "plain.py", "__all__ = ['plain']\ndef plain(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert sparsity.load("teas", "shop/green/leaf")(milk=True) == ("green/leaf", True)
    assert sparsity.load("teas", "shop/green").__name__ == "shop/green"
    assert sparsity.check("teas", "shop/green", "tea") == "shop/green"
    for name, message in (("shop", "must be shop/NAME"), ("plain/green", "must be plain"), ("plain/", "must be plain")):
        with pytest.raises(ValueError, match=f"^teas: name {message}"):
            sparsity.load("teas", name)
