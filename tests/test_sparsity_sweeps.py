"""The `sweeps` command and the checks before it, in processes whose packages are hidden, overwritten or deleted."""

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sparsity_sweeps

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMMAND = Path(sys.executable).with_name("sweeps")
FOREIGN = '__version__ = "0.3.0"\n'


@pytest.fixture
def installed(tmp_path):
    """A copy of the project that comes first on `run`'s sys.path, as if a wheel had been installed."""
    folder = tmp_path / "site-packages"
    for name in sparsity_sweeps.PACKAGES:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "sparsity_sweeps", folder / "sparsity_sweeps")
    return folder


def run(*command, path="", cwd=None):
    env = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def line(*command, expect=1, **more):
    """The one line that it ends with."""
    done = run(*command, **more)
    assert (done.returncode, done.stdout) == (expect, ""), done.stdout + done.stderr
    (only,) = done.stderr.splitlines()
    return only


def own(folder, name="sweeps"):
    """A folder that has a package of this name."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(FOREIGN)
    return folder


# ---- the command -------------------------------------------------------------------------------------------------


def test_it_states_its_version_from_a_folder_with_a_sweeps_of_its_own(tmp_path):
    done = run(COMMAND, "--version", cwd=own(tmp_path))
    assert (done.stdout, done.stderr) == (f"sparsity-sweeps {PROJECT['version']}\n", "")


def test_it_is_python_m_sweeps(tmp_path):
    command = run(COMMAND, "--help", cwd=tmp_path)
    module = run(sys.executable, "-m", "sweeps", "--help", cwd=tmp_path)
    assert command.returncode == module.returncode == 0
    assert command.stdout.split() == module.stdout.replace("python -m sweeps", "sweeps", 1).split()
    assert "--version" in module.stdout


# ---- whose packages these are ------------------------------------------------------------------------------------


def test_an_overwritten_package_is_named_with_the_distribution_to_uninstall(installed):
    (installed / "sweeps" / "__init__.py").write_text(FOREIGN)
    info = installed / "sweeps-0.3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sweeps\nVersion: 0.3.0\n")
    (info / "top_level.txt").write_text("sweeps\n")
    said = (
        f"sweeps: must be the package of sparsity-sweeps, got another one of that name in {installed / 'sweeps'}: pip "
        "uninstall sweeps, then install sparsity-sweeps again with pip's --force-reinstall --no-deps"
    )
    for command in (
        [sys.executable, COMMAND],
        [sys.executable, "-m", "sweeps"],
        [sys.executable, "-m", "sweeps.digits"],
        [sys.executable, REPOSITORY / "sweeps" / "digits.py"],
    ):
        assert line(*command, path=installed, cwd=installed.parent) == said


@pytest.mark.parametrize("name", sparsity_sweeps.PACKAGES)
def test_a_package_without_its_first_file_is_to_be_installed_again(installed, name):
    (installed / name / "__init__.py").unlink()
    said = line(sys.executable, "-c", "import sparsity_sweeps", path=installed, cwd=installed)
    assert said.startswith(f"{name}: must be the package of sparsity-sweeps, got none or a folder without __init__.py ")
    assert said.endswith(": install sparsity-sweeps again with pip's --force-reinstall --no-deps")


@pytest.mark.parametrize("name", sparsity_sweeps.PACKAGES)
def test_a_folder_that_comes_first_is_named(tmp_path, name):
    said = line(sys.executable, COMMAND, "best", path=own(tmp_path, name))
    assert said == (
        f"{name}: must be the package of sparsity-sweeps, got another one of that name in {tmp_path / name}: keep it "
        "off sys.path: start in another folder, or with `sweeps` or `python -P`, and look at PYTHONPATH"
    )


def test_other_errors_keep_their_traceback(installed):
    (installed / "sweeps" / "__init__.py").write_text(FOREIGN)
    script = "try:\n    import sparsity_sweeps\nexcept ImportError:\n    pass\n1 / 0"
    done = run(sys.executable, "-c", script, path=installed)
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("name", ["sparsity", "trainables"])
def test_a_sweep_does_not_start_where_its_workers_would_import_other_packages(tmp_path, name):
    digits = REPOSITORY / "sweeps" / "digits.py"
    said = line(sys.executable, digits, "--runs", tmp_path / "runs", cwd=own(tmp_path, name), expect=2)
    assert said == (
        f"{name}: must be one package for the sweep and for Ray's workers (these look in the working folder first), "
        f"got {tmp_path / name} beside {REPOSITORY / name}: run the sweep from another folder"
    )
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_the_same_name_without_a_package_is_no_fault(tmp_path, monkeypatch):
    (tmp_path / "sparsity").mkdir()
    for folder in (tmp_path, REPOSITORY):
        monkeypatch.chdir(folder)
        sparsity_sweeps.check_working_folder()


# ---- platforms and libraries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "machine"), [("win32", "AMD64"), ("darwin", "arm64"), ("linux", "ppc64le")])
def test_another_platform_is_refused(system, machine):
    first = "import importlib.metadata, pathlib, platform, sys"  # they would look for that system's modules
    pretend = f"sys.platform = {system!r}; platform.machine = lambda: {machine!r}"
    said = line(sys.executable, "-c", f"{first}; {pretend}; import search_spaces")
    assert said.startswith("sparsity-sweeps: must run on Linux on x86-64 or arm64 ")
    assert f" on {machine}: use a Linux machine or container" in said


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_these_platforms_are_taken(monkeypatch, machine):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    sparsity_sweeps.check_platform()
