"""docs/performance.md is made of what was recorded, and of nothing else."""

from benchmarks import _page

RECORD = {"date": "2026-11-21", "device": "a machine", "torch": "2.15"}
TIMES = {"median_s": 0.2, "min_s": 0.1, "ratio": 1.5, "min_ratio": 1.25}


def test_a_goal_stands_beside_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(_page, "RESULTS", tmp_path)
    steps = {name: TIMES for name in ("sgd", "sgd + wcr", "s2sam", "sam", "cram")}
    page = _page.page({**RECORD, "results": {"steps/batch 128": steps}})
    assert "| an S2SAM step | the SGD step | 1.03 | batch 128: 1.500 (of the least: 1.250) |" in page


def test_a_way_has_its_milliseconds_and_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(_page, "RESULTS", tmp_path)
    name = "multi-tensor (foreach) operations in place"
    page = _page.page({**RECORD, "results": {"ways/wcr": {name: {**TIMES, "first_s": 3.0}}}})
    assert f"| {name} | 100.0 | 3.00 | each is a pass over memory |" in page


def test_what_was_not_measured_is_not_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(_page, "RESULTS", tmp_path)
    page = _page.page({**RECORD, "results": {}})
    assert "the SGD step | 1.03 |  |" in page
    assert "It has not been run." in page
