import errno
import os
from pathlib import Path

import pytest
import torch

from tests.trainables.runner._runs import REPORT, files, finish, without_seconds
from trainables import files as files_module
from trainables import runner as runner_module
from trainables.result import Status, read_result
from trainables.runner import TrialRunner


def test_superseded_trial_stops_and_writes_nothing(start, undisturbed):
    cut_off = start()
    cut_off.advance()
    replacement = start()
    replacement.advance()
    before = files(cut_off.folder)
    report = cut_off.advance()
    assert set(report) == REPORT
    assert (report["status"], report["epoch"]) == (Status.SUPERSEDED, 2)
    assert report["reason"] == "trial: another process continues this trial, so this one stops"
    assert files(cut_off.folder) == before
    assert without_seconds(finish(replacement)) == undisturbed
    assert cut_off.advance()["status"] == Status.FINISHED  # the other one's result


def full_disk(monkeypatch, name):
    """Let os.replace find no space for files of this name."""
    replace = os.replace

    def refuse(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr(files_module.os, "replace", refuse)


def test_failed_checkpoint_costs_a_note(start, undisturbed, monkeypatch):
    full_disk(monkeypatch, "checkpoint.pt")
    result = without_seconds(finish(start()))
    assert [note.split(" (")[0] for note in result["notes"]] == [
        f"epoch {epoch}: no checkpoint was written" for epoch in (1, 2, 3)
    ]
    assert "No space left on device" in result["notes"][0]
    assert {**result, "notes": []} == undisturbed


@pytest.mark.parametrize("name", ["owner", "0.5", "result.json"])
def test_storage_failure_leaves_no_result_and_the_trial_can_be_repeated(start, undisturbed, monkeypatch, name):
    """The first file of a trial, a pruned checkpoint, or the result cannot be written."""
    trial = start()
    with monkeypatch.context() as patch:
        full_disk(patch, name)
        patch.setattr(Path, "rename", lambda source, target: os.replace(source, target))
        while (report := trial.advance())["status"] == Status.RUNNING:
            pass
    assert set(report) == REPORT
    assert report["status"] == Status.STORAGE_FAILED
    assert report["reason"].startswith("the trial's files cannot be read or written: ")
    assert "No space left on device" in report["reason"]
    assert read_result(trial.folder) is None
    assert without_seconds(finish(start())) == undisturbed


def test_storage_failure_while_an_error_is_recorded(config, tmp_path, monkeypatch):
    def fails():
        raise ValueError("no data")

    full_disk(monkeypatch, "result.json")
    report = TrialRunner(config, tmp_path / "trial", fails).advance()
    assert report["status"] == Status.STORAGE_FAILED


def test_unreadable_result_is_a_storage_failure(start):
    trial = start()
    (trial.folder / "result.json").mkdir(parents=True)
    report = trial.advance()
    assert (report["status"], report["epoch"]) == (Status.STORAGE_FAILED, 0)


def unreachable(*arguments):
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def no_memory(*arguments):
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("owner", "reader"), [(Path, "exists"), (Path, "read_bytes"), (runner_module, "load_trained")])
def test_files_that_cannot_be_read_for_a_moment_are_kept(start, undisturbed, monkeypatch, owner, reader):
    trial = start()
    trial.advance()
    trial.advance()
    before = files(trial.folder)
    with monkeypatch.context() as patch:
        original = getattr(owner, reader)

        def read(*arguments):
            is_checkpoint = owner is Path and arguments[0].name.startswith("checkpoint")
            return unreachable() if is_checkpoint or owner is not Path else original(*arguments)

        patch.setattr(owner, reader, read)
        report = start().advance()
    assert report["status"] == Status.STORAGE_FAILED
    assert os.strerror(errno.ESTALE) in report["reason"]
    assert files(trial.folder) == before
    assert without_seconds(finish(start())) == undisturbed


def test_damage_that_zipfile_reports_as_an_error_of_the_system_is_damage(start, undisturbed, monkeypatch):
    def invalid(content):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    start().advance()
    with monkeypatch.context() as patch:
        patch.setattr(runner_module, "read_checkpoint", invalid)
        trial = start()
        trial.advance()
    result = without_seconds(finish(trial))
    assert [note.split(" (")[0] for note in result["notes"]] == ["checkpoint.pt: could not be read"]
    assert {**result, "notes": []} == undisturbed


def test_checkpoint_for_which_memory_is_missing_is_not_passed_over(start, monkeypatch):
    start().advance()
    monkeypatch.setattr(runner_module, "read_checkpoint", no_memory)
    report = start().advance()
    assert (report["status"], report["reason"]) == (Status.OUT_OF_MEMORY, "CUDA out of memory")
