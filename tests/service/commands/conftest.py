import pytest
from typer.testing import CliRunner

from service.commands import app


@pytest.fixture
def sweeps(toy):
    """A function: what `sweeps ... --runs RUNS` prints on both streams, and its exit code."""

    def run(*words):
        done = CliRunner().invoke(app, [*words, "--runs", str(toy.folder.parent)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output, done.exit_code

    return run


@pytest.fixture
def old(toy):
    """The folder of a sweep of version 0.1, beside the toy sweep."""
    folder = toy.folder.parent / "old"
    folder.mkdir()
    (folder / "journal.jsonl").write_text('{"event": "sweep"}\n')
    return folder
