import errno
import os

import optuna
import pytest

from service.search.storage import open_storage


def begin(path, num_trials=2):
    study = optuna.create_study(storage=open_storage(path), study_name="toy", load_if_exists=True)
    for number in range(num_trials):
        study.add_trial(optuna.create_trial(value=float(number)))
    return study


def values(path):
    return [trial.value for trial in optuna.load_study(storage=open_storage(path), study_name="toy").trials]


def test_an_incomplete_last_line_is_removed(tmp_path):
    path = tmp_path / "study.log"
    begin(path)
    path.write_bytes(path.read_bytes()[:-20])  # as of a process that was killed while it wrote
    begin(path, num_trials=1)
    assert values(path) == [0.0, 0.0]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "study.log"
    study = begin(path)
    before, fsync = path.read_bytes(), os.fsync

    def half(descriptor):
        os.truncate(path, len(before) + 10)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", half)
    with pytest.raises(OSError, match="No space left on device") as raised:
        study.add_trial(optuna.create_trial(value=5.0))
    assert raised.value.filename == str(path)
    assert path.read_bytes() == before
    monkeypatch.setattr(os, "fsync", fsync)
    study.add_trial(optuna.create_trial(value=6.0))
    assert values(path) == [0.0, 1.0, 6.0]


def test_a_damaged_line_is_one_clear_error(tmp_path):
    path = tmp_path / "study.log"
    begin(path)
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first[:10] + b"\n" + b"".join(others))
    with pytest.raises(ValueError, match=r"study\.log: must hold one JSON object per line \(restore the file"):
        open_storage(path)


@pytest.mark.parametrize("uri", ["nodialect://me:secret@host/x", "sqlite://me:secret@/missing/studies.db"])
def test_a_database_that_cannot_be_opened_is_one_line_without_its_password(uri):
    with pytest.raises(ValueError, match="study_uri: must be a database that can be opened, got ") as raised:
        open_storage(uri)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
