"""The tables of docs/performance.md."""

import json
from pathlib import Path

import pytest

from benchmarks import _page

ROOT = Path(__file__).parents[2]
RECORD = {"date": "2026-11-21", "device": "a machine", "torch": "2.15"}
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


@pytest.mark.parametrize("name", [name for name in _page.TABLES if name not in ("searches", "gpu")])
def test_a_table_that_was_not_measured_stays(name):
    page = PAGE.replace("steps", name)
    assert filled(page) == page


def test_an_unknown_table_is_an_error():
    with pytest.raises(ValueError, match=r"page: a table's name must be one of penalties, .*, got 'step'"):
        filled(PAGE.replace("steps", "step"))


def test_a_table_without_an_end_is_an_error():
    with pytest.raises(ValueError, match=r"each of its 1 tables must have an <!-- end --> .*, got 0"):
        filled(PAGE.replace("<!-- end -->", ""))


def test_the_committed_page_has_the_numbers_of_the_committed_record():
    record = json.loads(sorted((ROOT / "benchmarks/results").glob("*-threads.json"))[-1].read_text())
    page = (ROOT / "docs/performance.md").read_text()
    assert page.count("<!-- table:") == len(_page.TABLES)
    assert _page.fill(page, record) == page
