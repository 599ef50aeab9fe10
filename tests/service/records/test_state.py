import json
import re

import pytest

from service.records.recorder import Recorder
from service.records.state import State, find_sweeps, find_unreadable_sweeps, flatten


def test_nested_names_are_joined_by_slashes():
    assert flatten({"lam": 1e-5, "opt": {"rho": 0.1, "lr": 1}}) == {"lam": 1e-5, "opt/rho": 0.1, "opt/lr": 1}


def test_the_state_that_is_read_is_the_one_that_was_recorded(toy):
    key = toy.trial((0.9, 0.7), evaluations=2)
    toy.trial(None, status="diverged", lam=0.1)
    toy.recorder.search_started(initial_points={"sam + wcr": [{"lam": 1e-5}]}, num_parallel=2)
    toy.recorder.run_started(["python"], num_search=2, num_confirm=1)
    toy.recorder.summarized({"winner": None})
    read = State.read(toy.folder)
    assert vars(read) == vars(toy.state)
    trial = read.trials[key]
    assert trial.at(0.9, "acc", "curve", "magnitude global") == read.goal.value(trial) == 0.7
    assert trial.at(0.5, "acc", "curve", "magnitude global") is None
    assert trial.at(0.9, "acc", "curve", "snip global") is None
    assert [report["epoch"] for report in read.trials[key].evaluations] == [1, 2]
    assert [trial.key for trial in read.finished("search")] == [key]
    assert (read.search_state["num_parallel"], read.summary) == (2, {"winner": None})


@pytest.mark.parametrize("event", ["run", "change", "retry"])
def test_a_sweep_that_goes_on_is_not_complete_until_its_result_is_recorded_again(toy, event):
    toy.trial((0.9, 0.8))
    toy.trial(None, status="error", lam=0.1)
    summary = toy.summary()
    toy.recorder.summarized(summary)
    assert State.read(toy.folder).complete
    if event == "run":
        toy.recorder.run_started(None, num_search=3, num_confirm=0)
    elif event == "change":
        toy.recorder.sweep_changed(toy.state.identity, left_out=[])
    else:
        toy.recorder.retry()
    assert not State.read(toy.folder).complete
    toy.recorder.summarized(summary)  # although it is the same
    assert State.read(toy.folder).complete


def test_reading_needs_no_lock_and_writes_nothing(tmp_path):
    assert State.read(tmp_path).trials == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ({}, "{}"),
        ({"event": "start", "trial": "0123"}, "{'event': 'start', 'trial': '0123'}"),
        ({"event": "retry", "trial": "4567"}, "{'event': 'retry', 'trial': '4567'}"),  # it never started
    ],
)
def test_a_damaged_log_is_refused_in_one_line(toy, line, got):
    with (toy.folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    message = "events.jsonl: must hold whole events in their order (restore the file from a copy, or choose another "
    with pytest.raises(ValueError, match=re.escape(f"{message}--name), got {got}")):
        State.read(toy.folder)


def test_empty_records_have_no_goal(tmp_path):
    with pytest.raises(ValueError, match="must hold the records of a sweep that has begun, got empty records"):
        _ = State(tmp_path).goal


def test_evaluations_are_ordered_by_epoch(toy):
    key = toy.start()
    for epoch in (1, 3, 2):
        toy.recorder.trial_evaluated(key, {"epoch": epoch})
    assert [report["epoch"] for report in State.read(toy.folder).trials[key].evaluations] == [1, 2, 3]


def test_sweeps_of_version_0_1_are_found_but_not_read(toy, tmp_path):
    runs = tmp_path / "runs"
    (runs / "old").mkdir()
    (runs / "old" / "journal.jsonl").write_text('{"event": "sweep"}\n')
    assert find_sweeps(runs) == [runs / "toy"]
    assert find_unreadable_sweeps(runs) == [runs / "old"]
    message = r"old: must hold records of this version \(format 3\), got records of version 0\.1: choose another --name"
    with pytest.raises(ValueError, match=message):
        State.read(runs / "old")
    with pytest.raises(ValueError, match=message):
        Recorder(runs / "old")
    assert [path.name for path in (runs / "old").iterdir()] == ["journal.jsonl"]


def test_records_of_another_format_are_not_read(toy):
    path = toy.folder / "events.jsonl"
    header, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps(json.loads(header) | {"format": 2}) + "\n" + "".join(rest))
    with pytest.raises(ValueError, match="got records of format 2: choose another --name or --runs"):
        State.read(toy.folder)
