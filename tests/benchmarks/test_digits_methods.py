import dataclasses
import gzip
import json
import math

import pytest

from benchmarks import digits_methods
from benchmarks._markdown import ALPHA, comparison_table
from benchmarks._study import Study
from service.records.state import State
from service.records.summary import summarize


def fill(toy, num_seeds=7):
    """SAM with WCR at 0.96 is 0.8 + 0.01 x seed, without 0.7; the search reads no test split."""
    for regularizer, base in (("wcr", 0.8), ("none", 0.7)):
        toy.trial((0.9, base), regularizer=regularizer)
        for seed in range(1, num_seeds):
            test = (0.95, base + 0.01 * seed * (regularizer == "wcr"))
            toy.trial((0.9, base), regularizer=regularizer, seed=seed, phase="confirm", test=test)


@pytest.fixture
def results(tmp_path):
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def make_study(folder, results):
    """A study at 0.9 whose records are in `folder`."""
    sweep = digits_methods.SWEEP.changed(target_sparsity=0.9, sparsities=(), runs=folder.parent, name=folder.name)
    return Study((sweep,), digits_methods.PLANNED, results=results)


def test_records_go_on_from_the_committed_ones(toy, results, tmp_path):
    fill(toy)
    folder = toy.folder
    (folder / "study.log").write_text("a trial\n")
    toy.recorder.run_started(["python", "sweeps/digits_methods.py"], num_search=2, num_confirm=12)
    study = make_study(folder, results)
    study.export()
    elsewhere = tmp_path / "elsewhere" / folder.name
    restored = make_study(elsewhere, results)
    assert restored.found().section("x.png") == "Nothing has run yet."
    restored.restore()
    assert (elsewhere / "study.log").read_text() == "a trial\n"
    ours, theirs = State.read(folder), State.read(elsewhere)
    without = [{k: dataclasses.replace(t, evaluations=[]) for k, t in r.trials.items()} for r in (ours, theirs)]
    assert without[0] == without[1]
    summaries = [summarize(r, objective="acc", complete=True) for r in (ours, theirs)]
    assert summaries[0]["confirmed"] == summaries[1]["confirmed"]
    assert study.found().section("x.png") == restored.found().section("x.png")
    before = (elsewhere / "events.jsonl").read_bytes()
    restored.restore()  # what is there is not replaced
    assert (elsewhere / "events.jsonl").read_bytes() == before


def test_no_path_or_host_of_a_machine_is_committed(toy, results):
    fill(toy)
    (toy.folder / "study.log").write_text("")
    toy.recorder.run_started(["python", "/secret/place/digits.py"], num_search=1, num_confirm=1)
    make_study(toy.folder, results).export()
    text = gzip.decompress((results / f"{toy.folder.name}-events.jsonl.gz").read_bytes()).decode()
    assert "/secret/place" not in text
    assert '"cwd"' not in text
    assert {json.loads(line)["event"] for line in text.splitlines()} == {"sweep", "start", "end"}


def test_the_tables_by_hand(toy, results):
    fill(toy)
    found = make_study(toy.folder, results).found()
    first, _ = digits_methods.PLANNED.values()
    shown = comparison_table(found.comparisons(first), verdicts=("better", "worse"))
    # six differences of 0.11 to 0.16 (mean 0.135), all positive: p = 2 / 2^6, corrected for all that is planned
    assert len(first) == 21
    assert "| sam + wcr, against sam + none | 6 | +0.135 |" in shown
    assert f"| 0.031 | {21 * 2 / 64:.2g} | no |" in shown
    assert shown.count("| 0 | - |") == 20
    assert "| 0.031 | 0.031 | better |" in comparison_table(
        found.comparisons([(("sam", "wcr"), ("sam", "none"))]), verdicts=("better", "worse")
    )
    methods = found.method_table()
    half = 2.570582 * math.sqrt(3.5e-4 / 6)  # variance of 0.81 ... 0.86 is 3.5e-4; t(0.975, 5)
    assert f"0.835 [{0.835 - half:.3f}, {0.835 + half:.3f}]" in methods
    assert methods.index("| sam | wcr |") < methods.index("| sam | none |")  # by validation
    assert "none of them diverged" in found.progress()
    assert found.progress().startswith("**Not complete:** 0 of 56 arms are confirmed. Search: 2 trials (planned: ")
    assert "Confirmation: 12 trials." in found.progress()


def test_the_page_keeps_what_people_wrote(toy, results, tmp_path):
    fill(toy)
    page = tmp_path / "page.md"
    page.write_text(f"above\n{digits_methods.START}\nold table\n{digits_methods.END}\nbelow\n")
    digits_methods.write(make_study(toy.folder, results), page)
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old table" not in text
    assert "| sam | wcr |" in text
    assert page.with_suffix(".png").stat().st_size > 10_000


def test_planned_comparisons_can_be_significant_with_the_planned_seeds():
    """The smallest p of 12 pairs, times the number of comparisons, must be below the threshold."""
    assert max(map(len, digits_methods.PLANNED.values())) * 2 / 2**digits_methods.SWEEP.num_seeds < ALPHA
    assert not digits_methods.SWEEP.race
