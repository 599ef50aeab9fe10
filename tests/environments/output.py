"""Terminals, pipes and encodings that a sweep prints to, and the names of what it prints."""

import shutil
from pathlib import Path

import pytest

from tests._digits import environment, events

C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("variables", "name", "plus_minus"),
    [
        ({"LANG": "C", "LC_ALL": None, "PYTHONIOENCODING": None}, "LANG=C, output to a pipe", "±"),
        ({"PYTHONIOENCODING": "ascii"}, "PYTHONIOENCODING=ascii", "+-"),
        (C, "LC_ALL=C without Python's UTF-8 mode", "+-"),
    ],
)
def test_an_encoding(sweep, environment_row, variables, name, plus_minus):
    done = sweep("--confirm", "1", "--seeds", "2", env=environment(**variables))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Best: sgd" in done.stdout
    assert f" {plus_minus} " in done.stdout
    assert "Accuracy against sparsity: " in done.stdout
    environment_row(name, f"a sweep runs and prints its tables, 0.720 {plus_minus} 0.020")


def test_no_git_and_a_bare_environment(sweep, runs, tmp_path, environment_row):
    """As in a slim image under `env -i`."""
    for program in {path.name: path for folder in ("/bin", "/usr/bin") for path in Path(folder).iterdir()}.values():
        if program.name != "git":
            (tmp_path / program.name).symlink_to(program)
    assert shutil.which("git", path=str(tmp_path)) is None
    done = sweep(env={"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(runs)["end"] == 2
    assert '"git_commit": "none: sparsity-sweeps ' in (runs / "digits" / "events.jsonl").read_text()
    environment_row(
        "no git and no variable but PATH (`env -i`)",
        "a sweep runs and records the installed version in place of the commit",
    )


def test_a_runs_folder_with_an_odd_name(sweep, runs, environment_row):
    odd = runs / "50% of? it's #1"
    done = sweep("--runs", str(odd))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in runs.iterdir()] == [odd.name]
    assert (odd / "mlflow.db").stat().st_size > 0
    assert "not got" not in done.stdout  # MLflow has everything
    environment_row("a runs folder with a space, ', ?, # or % in its name", "a sweep runs; its commands can be pasted")
