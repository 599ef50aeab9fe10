"""The shell's completion, asked as the shell asks it."""

import subprocess
import sys

import pytest

import sparsity
from service.commands import app

CODE = """
import sys
from service.commands import app
sys.argv = ["sweeps"]
try:
    app()
finally:
    print({"torch", "ray", "mlflow", "optuna", "scipy", "trainables.config"} & set(sys.modules), file=sys.stderr)
"""


@pytest.fixture
def complete(monkeypatch):
    """A function: the completions of a line that ends where the cursor is."""

    def run(*words, **environment):
        monkeypatch.setenv("_SWEEPS_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", " ".join(("sweeps", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
        assert done.stderr == "set()\n"  # what takes seconds to import
        return done.stdout.split()

    return run


def test_names_of_recorded_sweeps_complete(toy, complete):
    (toy.folder.parent / "tonic").mkdir()  # no records
    assert complete("status", "to", SPARSITY_SWEEPS_RUNS=str(toy.folder.parent)) == ["toy"]


def test_names_complete_from_the_given_folder(toy, complete):
    assert complete("report", "--runs", str(toy.folder.parent), "t") == ["toy"]


def test_a_bad_folder_completes_to_nothing_and_prints_no_error(complete):
    assert complete("report", "--runs", "~nobody-x/y", "t") == []


def test_names_of_sweep_files_complete(complete):
    assert complete("inspect", "digits") == [name for name in sparsity.names("sweeps") if name.startswith("digits")]


def test_every_name_of_a_recorded_sweep_completes():
    """An argument NAME without completion would be an oversight."""
    arguments = [
        (command.name, argument)
        for command in app.registered_commands
        for name, kind in command.callback.__annotations__.items()
        for argument in getattr(kind, "__metadata__", ())
        if name in ("name", "names")
    ]
    assert len(arguments) >= 9
    assert [command for command, argument in arguments if argument.autocompletion is None] == []


@pytest.mark.parametrize("command", ["inspect", "range", "train", "submit"])
def test_every_name_of_a_sweep_s_file_completes(command):
    (callback,) = [found.callback for found in app.registered_commands if found.name == command]
    (argument,) = callback.__annotations__["sweep"].__metadata__
    assert "digits" in argument.autocompletion("")
