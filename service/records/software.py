"""The versions and the commit that a sweep was run with."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["commit_of", "git_environment", "software_versions"]

PACKAGES = ("sparsity-sweeps", "torch", "torchvision", "ray", "optuna", "mlflow", "numpy")


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a sweep's numbers.

    `git_commit` is the commit of this project's checkout. For an installed package it says so and names the version.
    """
    versions = {name: version(name) for name in PACKAGES}
    commit = commit_of(Path(__file__)) or f"none: sparsity-sweeps {versions['sparsity-sweeps']} as installed"
    return {"python": platform.python_version(), **versions, "git_commit": commit}


def commit_of(file: Path) -> str:
    """The commit of the repository that tracks a file.

    Returns:
        The hash, followed by "-dirty" if the repository has changes; empty if no repository tracks the file.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=git_environment())
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        tracked = git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else ""
    except OSError:  # git is not installed, as in slim images
        return ""


def git_environment() -> dict[str, str]:
    """This process's environment without what a git hook sets for its own repository: git would look there."""
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
    return {name: value for name, value in os.environ.items() if name not in elsewhere}
