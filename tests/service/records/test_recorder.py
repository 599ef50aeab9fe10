import json
import os
import threading

import pytest

from service.records import lock
from service.records.events import EventLog
from service.records.recorder import Recorder
from service.records.state import State


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)


def result_of(status="finished", **more):
    return {"report": {"status": status, "reason": "", "epoch": 4}, "notes": [], **more}


def test_recording_something_twice_changes_nothing(toy):
    key = toy.trial((0.9, 0.7), evaluations=2)
    toy.recorder.summarized({"winner": None, "levels": (0.0, 0.9)})
    before = toy.recorder.log.path.read_bytes()
    toy.recorder.trial_started(key, phase="search", arm="sam + wcr", number=0, config={})
    toy.recorder.trial_evaluated(key, {"epoch": 2, "loss": 0.0})
    toy.recorder.trial_ended(key, lost="late news of a host that was disconnected")
    toy.recorder.summarized({"winner": None, "levels": (0.0, 0.9)})
    assert toy.recorder.log.path.read_bytes() == before


def test_a_trial_without_a_result_is_lost(toy):
    key = toy.start()
    toy.recorder.trial_evaluated(key, {"epoch": 1, "loss": 0.25})
    toy.recorder.trial_ended(key, lost="its worker died")
    trial = toy.state.trials[key]
    assert (trial.status, trial.reason, trial.report["loss"]) == ("lost", "its worker died", 0.25)


def test_a_result_counts_even_if_the_worker_was_lost(toy):
    key = toy.start()
    toy.write_result(key, result_of())
    toy.recorder.trial_ended(key, lost="its worker died")
    assert toy.state.trials[key].status == "finished"


def test_a_result_that_becomes_visible_late_is_waited_for(toy):
    late, never = toy.start(seed=1), toy.start(seed=2)
    threading.Timer(0.5, lambda: toy.write_result(late, result_of())).start()
    toy.recorder.trial_ended(late, wait=30)
    toy.recorder.trial_ended(never, wait=0.3)
    assert toy.state.trials[late].status == "finished"
    assert toy.state.trials[never].status == "lost"
    assert "without a visible result in" in toy.state.trials[never].reason


def test_evaluations_that_a_killed_driver_missed_are_taken_from_the_result(toy):
    key = toy.start()
    toy.recorder.trial_evaluated(key, {"epoch": 1, "loss": 3.0})
    toy.recorder.trial_evaluated(key, {"epoch": 3, "loss": 1.0})  # the driver was killed at epoch 2
    evaluations = [{"epoch": epoch, "loss": 4.0 - epoch} for epoch in (1, 2, 3)]
    toy.write_result(key, result_of(evaluations=evaluations))
    toy.recorder.trial_ended(key)
    assert toy.state.trials[key].evaluations == evaluations
    assert State.read(toy.folder).trials[key].evaluations == evaluations


def test_retry_discards_the_result_and_runs_the_same_trial_again(toy):
    failed = toy.trial(None, status="error", evaluations=2)
    finished = toy.trial((0.9, 0.7), seed=1)
    assert toy.recorder.retry() == [failed]
    assert not (toy.state.trial_folder(failed) / "result.json").exists()
    assert toy.state.trials[failed].status == "waiting"
    assert toy.recorder.retry() == []
    assert toy.trial((0.9, 0.8), evaluations=1) == failed
    for state in (toy.state, State.read(toy.folder)):
        found = {trial.key: (trial.status, len(trial.evaluations)) for trial in state.trials.values()}
        assert found == {failed: ("finished", 1), finished: ("finished", 1)}


def test_retry_selects_by_status(toy):
    keys = {status: toy.trial(None, status=status, lam=lam) for status, lam in (("error", 0.1), ("diverged", 0.2))}
    assert toy.recorder.retry(["diverged"]) == [keys["diverged"]]
    assert toy.state.trials[keys["error"]].status == "error"


def test_passwords_of_the_command_are_not_recorded(toy):
    command = [
        "python",
        "sweeps/digits.py",
        "--study-uri",
        "postgresql://me:secret@host/db",
        "--tracking-uri=http://h:1",
    ]
    toy.recorder.run_started(command, num_search=3, num_confirm=1)
    assert "secret" not in toy.recorder.log.path.read_text()
    assert toy.state.last_run["command"][3:] == ["postgresql://me:***@host/db", "--tracking-uri=http://h:1"]


def test_a_second_recorder_of_a_sweep_is_refused(toy):
    with pytest.raises(ValueError, match=rf"one process at a time, is in use by process {os.getpid()} on "):
        Recorder(toy.folder)


def test_another_target_is_recorded_even_if_nothing_new_was_measured(toy):
    key = toy.trial((0.9, 0.7))
    result = json.loads((toy.state.trial_folder(key) / "result.json").read_text())
    toy.write_result(key, result | {"config": result["config"] | {"target_sparsity": 0.0}})
    toy.recorder.trial_ended(key)
    toy.recorder.trial_ended(key)
    assert toy.state.trials[key].target_sparsity == 0.0
    assert [event["event"] for event, _ in EventLog.read(toy.recorder.log.path)].count("pruned") == 1
