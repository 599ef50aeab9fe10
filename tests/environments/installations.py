"""The wheel in an environment of its own, beside distributions with packages of the same names; the source archive.

Needs the package registry that pip is configured for.
"""

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from tests._digits import REPOSITORY
from tests.environments.conftest import ARMS, QUICK

UV = Path(sys.executable).with_name("uv")


def run(*command, cwd, expect=0, **more):
    """Run a command that does not see this repository; its output with errors."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")} | more
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 600}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, **options)
    assert done.returncode == expect, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the source archive and of the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("built")
    run(UV, "build", "--quiet", "--out-dir", folder, REPOSITORY, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The folder of programs of an environment with nothing but the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=True)
    constraints = ["--constraint", REPOSITORY / "constraints.txt"]
    run(UV, "pip", "install", "--quiet", "--python", folder / "bin" / "python", *constraints, wheel, cwd=folder)
    return folder / "bin"


def own(folder, name):
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("raise RuntimeError('another project')\n")
    return folder


def test_the_wheel_from_an_empty_folder(programs, tmp_path, environment_row):
    shown = run(programs / "python", "-m", "sweeps.digits", *QUICK, *ARMS, cwd=tmp_path)
    assert "Best: sgd" in shown
    assert "sgd" in run(programs / "sweeps", "best", cwd=tmp_path)
    assert run(programs / "sweeps", "--version", cwd=tmp_path).startswith("sparsity-sweeps ")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    environment_row("the wheel in an empty folder", "a sweep runs: `python -m sweeps.digits`")


def test_a_folder_with_a_sweeps_of_its_own(programs, tmp_path, environment_row):
    own(tmp_path, "sweeps")
    shown = run(programs / "python", "-P", "-m", "sweeps.digits", *QUICK, *ARMS, cwd=tmp_path)
    assert "Best: sgd" in shown
    assert "sgd" in run(programs / "sweeps", "best", cwd=tmp_path)
    own(tmp_path, "sparsity")
    assert "sgd" in run(programs / "sweeps", "best", cwd=tmp_path)
    refused = run(programs / "python", "-P", "-m", "sweeps.digits", *QUICK, *ARMS, cwd=tmp_path, expect=2)
    assert refused.startswith("sparsity: must be one package for the sweep and for Ray's workers")
    assert refused.endswith(": run the sweep from another folder\n")
    environment_row(
        "a folder with a `sweeps` package of its own",
        "`sweeps` and `python -P -m sweeps.digits` work; if the folder has its own `sparsity` package, a sweep refuses "
        "to start, with a one-line error",
    )


def test_another_distribution_over_ours(programs, wheel, tmp_path, environment_row):
    """W&B's sweeps overwrites our sweeps/__init__.py, and deletes it when it is uninstalled."""
    pip = [programs / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for name, version in (("sweeps", "0.3.0"), ("sparsity", "0.19.1")):
        run(*pip, "install", "--no-deps", f"{name}=={version}", cwd=tmp_path)
        said = run(programs / "sweeps", "best", cwd=tmp_path, expect=1)
        assert said.startswith(f"{name}: must be the package of sparsity-sweeps, got another one of that name in ")
        assert f": pip uninstall {name}, then install sparsity-sweeps again with pip's " in said
        assert said.count("\n") == 1
        run(*pip, "uninstall", "--yes", name, cwd=tmp_path)
        said = run(programs / "sweeps", "best", cwd=tmp_path, expect=1)
        assert said.startswith(f"{name}: must be the package of sparsity-sweeps, got none or a folder without __init__")
        assert said.count("\n") == 1
        run(*pip, "install", "--force-reinstall", "--no-deps", wheel, cwd=tmp_path)
        assert "no finished trial" in run(programs / "sweeps", "best", cwd=tmp_path, expect=2)
    environment_row(
        "W&B's `sweeps` or PyPI's `sparsity` installed over ours, or uninstalled", "one line says what to reinstall"
    )


def test_the_source_archive(built, tmp_path, environment_row):
    """It has everything that `make test` needs; checked on the linters and on tests that start no sweep."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    listed = subprocess.run(["git", "ls-files", "[!.]*"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert [name for name in listed.stdout.split() if not (folder / name).exists()] == []
    run("make", "lint", f"PYTHON={sys.executable}", cwd=folder)
    tests = [
        "tests/test_docs.py",
        "tests/test_cluster.py",
        "tests/sparsity/test_masks.py",
        "tests/service/views/test_tables.py",
    ]
    assert " passed" in run(folder / ".venv" / "bin" / "python", "-m", "pytest", *tests, cwd=folder)
    environment_row("the source archive", "`make lint` and tests pass")
