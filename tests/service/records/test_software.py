import os
import shutil
import subprocess

import pytest

from service.records.software import commit_of, software_versions


@pytest.fixture
def repository(tmp_path):
    """A repository of somebody else's with one commit, and its id."""
    if shutil.which("git") is None:
        pytest.skip("it needs git")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "theirs.py").touch()
    (folder / ".gitignore").write_text("venv/\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "theirs"]):
        subprocess.run([*git, *arguments], check=True, env=without_git())
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True, env=without_git())
    return folder, done.stdout.strip()


def without_git():
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def test_the_commit_is_of_the_repository_that_tracks_the_file(repository):
    folder, commit = repository
    assert commit_of(folder / "theirs.py") == commit
    (folder / "theirs.py").write_text("changed")
    assert commit_of(folder / "theirs.py") == f"{commit}-dirty"


def test_an_environment_inside_another_repository_has_no_commit(repository, monkeypatch, environment_row):
    folder, _ = repository
    installed = folder / "venv" / "software.py"
    installed.parent.mkdir()
    installed.touch()
    assert commit_of(installed) == ""
    monkeypatch.setenv("GIT_DIR", str(folder / ".git"))  # as in a hook of that repository
    assert commit_of(installed) == ""
    environment_row(
        "installed inside another git repository", "the installed version is recorded, not that repository's commit"
    )


def test_git_dir_of_another_repository_does_not_name_the_commit(repository, tmp_path, monkeypatch):
    folder, _ = repository
    alone = tmp_path / "alone" / "theirs.py"
    alone.parent.mkdir()
    alone.touch()
    monkeypatch.setenv("GIT_DIR", str(folder / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(alone.parent))
    assert commit_of(alone) == ""


def test_without_git_or_a_repository_the_installed_version_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    versions = software_versions()
    assert versions["git_commit"] == f"none: sparsity-sweeps {versions['sparsity-sweeps']} as installed"
