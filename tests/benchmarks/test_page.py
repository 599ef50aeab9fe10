"""The tables of docs/performance.md and docs/search-strategies.md."""

import json
from pathlib import Path

import pytest

from benchmarks import _page

ROOT = Path(__file__).parents[2]
RECORD = {"date": "2026-11-21", "device": "a machine", "torch": "2.15"}
# written by other commands
FROM_FILES = ("searches", "strategies", "strategies by arm", "short schedules", "warm starts", "gpu")
TIMES = {"median_s": 0.2, "min_s": 0.1, "ratio": 1.5, "min_ratio": 1.25}
PAGE = "Before.\n<!-- table: steps -->\n\n| old |\n\n<!-- end -->\nAfter.\n"


def filled(page=PAGE, **results):
    return _page.fill(page, {**RECORD, "results": results})


def test_a_table_is_replaced_and_the_text_around_it_stays():
    steps = {name: TIMES for name in ("sgd", "sgd + wcr", "s2sam", "sam", "cram")}
    page = filled(**{"steps/batch 32": steps, "steps/batch 128": steps})
    assert page.startswith("Before.\n<!-- table: steps -->\n\n| step | goal | batch 128 | batch 32 |\n")
    assert "| s2sam | 1.03 | 1.500 (1.250) | 1.500 (1.250) |\n" in page
    assert page.endswith("\n\n2026-11-21, a machine, torch 2.15.\n\n<!-- end -->\nAfter.\n")
    assert "old" not in page


def test_a_penalty_is_compared_with_autograd_and_a_copy():
    variants = {"plain autograd": 0.1, "R.backward(lam)": 0.01, "copy": 0.005}
    times = {name: {"median_s": seconds} for name, seconds in variants.items()}
    page = filled("<!-- table: penalties -->\n<!-- end -->", **{"penalties/wcr, 2 thread(s)": times})
    assert "| wcr | 2 | 100.0 | 10.0 | 10.0 | 2.0 |" in page


def test_contenders_of_different_lengths_are_compared_per_trial():
    rows = {
        "the sweep": {"wall_s": 48, "cpu_s": 96, "num_trials": 24, "wall_ratio": 1, "cpu_ratio": 1},
        "plain Ray Tune": {"wall_s": 24, "cpu_s": 40, "num_trials": 8, "wall_ratio": 1.5, "cpu_ratio": 1.25},
    }
    page = filled("<!-- table: sweeps -->\n<!-- end -->", **{"sweeps/sweeps": rows})
    assert "| the sweep | 24 | 2.0 | 4.0 | 1.00 | 1.00 |\n| plain Ray Tune | 8 | 3.0 | 5.0 | 1.50 | 1.25 |" in page


@pytest.mark.parametrize("name", [name for name in _page.TABLES if name not in FROM_FILES])
def test_a_table_that_was_not_measured_stays(name):
    page = PAGE.replace("steps", name)
    assert filled(page) == page


def test_strategies_are_marked_where_they_differ_by_two_standard_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(_page, "RESULTS", tmp_path)
    assert "not been compared" in filled("<!-- table: strategies -->\n<!-- end -->")

    def row(mean, difference, error):
        pairs = {"regret": [(mean, 0.001)] * 2, "difference": [(difference, error)] * 2}
        return {**pairs, "third": [(difference + 0.01, error)]}

    results = {
        "today": {"a": row(0.02, 0.0, 0.0), "b": row(0.03, 0.0, 0.0), "all arms": row(0.025, 0.0, 0.0)},
        "new": {"a": row(0.01, -0.01, 0.004), "b": row(0.01, -0.02, 0.011), "all arms": row(0.01, -0.015, 0.002)},
        "partial": {"b": row(0.05, 0.02, 0.009)},
    }
    record = {"date": "2026-11-22", "num_repetitions": 50, "coverage": ["a: seed 0"], "budgets": [120, 360]}
    more = {"same": {"correlation": 0.5, "regret": 0.1}, "scaled": {"correlation": 0.75, "regret": 0.0}}
    case = {"results": results, "short_schedules": {"a": [{"epochs": 8, **more}]}}
    record |= {"thirds": [360], "cases": {"easy": case, "hard": case}}
    (tmp_path / "2026-11-22-strategies.json").write_text(json.dumps(record))
    names = ("strategies", "strategies by arm", "short schedules")
    page = filled("".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in names))
    assert "| strategy | 120 epochs | 360 epochs | 120 against TPE's 360 |\n" in page
    assert "| new | 0.0100 ± 0.0010 (better) | 0.0100 ± 0.0010 (better) | -0.0050 ± 0.0020 (better) |\n" in page
    assert "| strategy | a, 120 | b, 120 | a, 360 | b, 360 |\n" in page
    assert "| new | 0.0100 ± 0.0010 (better) | 0.0100 ± 0.0010 | " in page  # -0.02 is less than two errors of 0.011
    assert "| partial | - | 0.0500 ± 0.0010 (worse) | - | " in page
    assert "| a | 8 | 0.500 | 0.100 | 0.750 | 0.000 |\n" in page
    assert "\n- a: seed 0\n" in page
    assert page.count("**easy**\n\n| ") == page.count("**hard**\n\n| ") == 3


def test_an_unknown_table_is_an_error():
    with pytest.raises(ValueError, match=r"page: a table's name must be one of penalties, .*, got 'step'"):
        filled(PAGE.replace("steps", "step"))


def test_a_table_without_an_end_is_an_error():
    with pytest.raises(ValueError, match=r"each of its 1 tables must have an <!-- end --> .*, got 0"):
        filled(PAGE.replace("<!-- end -->", ""))


def test_the_committed_pages_have_the_numbers_of_the_committed_records():
    record = json.loads(sorted((ROOT / "benchmarks/results").glob("*-threads.json"))[-1].read_text())
    pages = [(ROOT / "docs" / name).read_text() for name in ("performance.md", "search-strategies.md")]
    assert sum(page.count("<!-- table:") for page in pages) == len(_page.TABLES)
    for page in pages:
        assert _page.fill(page, record) == page
