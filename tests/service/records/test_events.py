import json
import resource
import signal

import pytest

from service.records.events import EventLog


def test_what_is_appended_is_read_back_in_order(tmp_path):
    journal = EventLog(tmp_path / "deep" / "events.jsonl")
    for number in range(3):
        journal.append("evaluation", number=number)
    entries = [entry for entry, _ in EventLog.read(journal.path)]
    assert [(e["event"], e["number"]) for e in entries] == [("evaluation", 0), ("evaluation", 1), ("evaluation", 2)]
    assert all(entry["time"] > 1.7e9 for entry in entries)


def test_reading_goes_on_from_an_offset(tmp_path):
    journal = EventLog(tmp_path / "events.jsonl")
    for number in range(5):
        journal.append("evaluation", number=number)
    first = list(EventLog.read(journal.path, most=2))
    rest = list(EventLog.read(journal.path, first[-1][1]))
    assert [e["number"] for e, _ in first + rest] == [0, 1, 2, 3, 4]
    assert list(EventLog.read(journal.path, rest[-1][1])) == []
    assert list(EventLog.read(tmp_path / "absent.jsonl")) == []


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_a_kill_left_unfinished_is_cut_off(tmp_path, cut):
    path = tmp_path / "events.jsonl"
    journal = EventLog(path)
    journal.append("evaluation", number=0)
    journal.append("evaluation", number=1)
    journal.close()
    path.write_bytes(path.read_bytes()[:-cut])
    assert [e["number"] for e, _ in EventLog.read(path)] == [0]  # a reader passes over it
    journal = EventLog(path)
    journal.append("evaluation", number=2)
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2]


def test_what_is_not_json_is_refused_and_leaves_no_trace(tmp_path):
    journal = EventLog(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append("evaluation", loss=float("nan"))
    assert journal.path.read_bytes() == b""


def test_a_line_that_the_disk_does_not_take_whole_leaves_the_journal_as_it_was(tmp_path):
    path = tmp_path / "events.jsonl"
    journal = EventLog(path)
    journal.append("evaluation", number=0)
    room = path.stat().st_size + 10
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the kernel writes 10 bytes more, then says EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match=r"events\.jsonl"):
            journal.append("evaluation", number=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    journal.append("evaluation", number=2)
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2]
