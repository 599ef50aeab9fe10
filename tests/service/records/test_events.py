import json
import resource
import signal

import pytest

from service.records.events import EventLog, is_event


def test_events_are_read_in_the_order_in_which_they_were_appended(tmp_path):
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    for number in range(3):
        log.append("evaluation", number=number)
    entries = [entry for entry, _ in EventLog.read(log.path)]
    assert [(e["event"], e["number"]) for e in entries] == [("evaluation", 0), ("evaluation", 1), ("evaluation", 2)]
    assert all(entry["time"] > 1.7e9 for entry in entries)


def test_reading_continues_at_an_offset(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(5):
        log.append("evaluation", number=number)
    first = list(EventLog.read(log.path, most=2))
    rest = list(EventLog.read(log.path, first[-1][1]))
    assert [e["number"] for e, _ in first + rest] == [0, 1, 2, 3, 4]
    assert list(EventLog.read(log.path, rest[-1][1])) == []
    assert list(EventLog.read(tmp_path / "absent.jsonl")) == []


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_an_incomplete_last_line_is_ignored_and_removed(tmp_path, cut):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append("evaluation", number=0)
    log.append("evaluation", number=1)
    log.close()
    path.write_bytes(path.read_bytes()[:-cut])
    assert [e["number"] for e, _ in EventLog.read(path)] == [0]  # by a reader
    log = EventLog(path)
    log.append("evaluation", number=2)
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2]


def test_a_value_that_json_lacks_is_refused_and_nothing_is_written(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append("evaluation", loss=float("nan"))
    assert log.path.read_bytes() == b""


def test_a_failed_write_leaves_the_log_as_it_was(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append("evaluation", number=0)
    room = path.stat().st_size + 10
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the kernel writes 10 more bytes, then fails with EFBIG
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match=r"events\.jsonl"):
            log.append("evaluation", number=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    log.append("evaluation", number=2)
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 2]


@pytest.mark.parametrize("line", [b"not JSON", b"\x80\x04", b"[1, 2]"])
def test_a_damaged_line_is_an_error_that_names_the_file(tmp_path, line):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "evaluation"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"events\.jsonl: must hold one JSON object per line \(restore"):
        list(EventLog.read(path))


def test_an_appended_event_is_returned_as_it_is_read(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    returned = log.append("summary", levels=(0.0, 0.9), counts={1: 2})
    assert [entry for entry, _ in EventLog.read(log.path)] == [returned]


def test_unwanted_events_are_passed_over_unparsed(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for event in ("start", "evaluation", "end"):
        log.append(event, trial="a")
    log.close()
    damaged = (tmp_path / "events.jsonl").read_bytes().replace(b'"evaluation", ', b'"evaluation", }')
    (tmp_path / "events.jsonl").write_bytes(damaged)
    read = EventLog.read(tmp_path / "events.jsonl", wanted=lambda line: not is_event(line, "evaluation"))
    found = list(read)
    assert [event["event"] for event, _ in found] == ["start", "end"]
    assert found[-1][1] == len(damaged)  # offsets count what was passed over
