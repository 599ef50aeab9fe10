import json

import pytest

from trainables.result import Status, read_result


def test_status_is_its_word_in_json():
    assert json.loads(json.dumps({"status": Status.OUT_OF_MEMORY})) == {"status": "out_of_memory"}
    assert Status("finished") is Status.FINISHED


def test_ended_means_that_there_is_a_result():
    open_statuses = {"waiting", "running", "storage_failed", "superseded"}
    assert {status.value for status in Status if not status.ended} == open_statuses
    assert {status.value for status in Status if status.ended} == {
        *("finished", "diverged", "out_of_memory", "error", "lost")
    }


@pytest.mark.parametrize("content", [None, b"", b'{"report": {"epo', b"\xff\xfe"])
def test_unreadable_result_counts_as_none(tmp_path, content):
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    assert read_result(tmp_path) is None


def test_result_is_read(tmp_path):
    (tmp_path / "result.json").write_text('{"report": {"epoch": 3}}')
    assert read_result(tmp_path) == {"report": {"epoch": 3}}
