import dataclasses
import gzip
import json
import math

import pytest

from benchmarks import digits_methods as study
from service.records.state import State
from service.records.summary import summarize
from tests.service._sweeps import changed


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def fill(toy, num_seeds=7):
    """SAM with WCR at 0.96 is 0.8 + 0.01 x seed, without 0.7; the search reads no test split."""
    for regularizer, base in (("wcr", 0.8), ("none", 0.7)):
        toy.trial((0.9, base), regularizer=regularizer)
        for seed in range(1, num_seeds):
            test = (0.95, base + 0.01 * seed * (regularizer == "wcr"))
            toy.trial((0.9, base), regularizer=regularizer, seed=seed, phase="confirm", test=test)


@pytest.fixture
def at_090(monkeypatch):
    monkeypatch.setattr(study, "SWEEP", changed(study.SWEEP, target_sparsity=0.9, sparsities=()))


def test_records_go_on_from_the_committed_ones(toy, results, tmp_path, at_090):
    fill(toy)
    folder = toy.folder
    (folder / "study.log").write_text("a trial\n")
    toy.recorder.run_started(["python", "sweeps/digits_methods.py"], num_search=2, num_confirm=12)
    study.export(folder)
    elsewhere = tmp_path / "elsewhere"
    study.restore(elsewhere)
    assert (elsewhere / "study.log").read_text() == "a trial\n"
    ours, theirs = State.read(folder), State.read(elsewhere)
    without = [{k: dataclasses.replace(t, evaluations=[]) for k, t in r.trials.items()} for r in (ours, theirs)]
    assert without[0] == without[1]
    summaries = [summarize(r, objective="acc", complete=True) for r in (ours, theirs)]
    assert summaries[0]["confirmed"] == summaries[1]["confirmed"]
    assert study.section(ours) == study.section(theirs)
    before = (elsewhere / "events.jsonl").read_bytes()
    study.restore(elsewhere)  # what is there is not replaced
    assert (elsewhere / "events.jsonl").read_bytes() == before


def test_no_path_or_host_of_a_machine_is_committed(toy, results):
    fill(toy)
    (toy.folder / "study.log").write_text("")
    toy.recorder.run_started(["python", "/secret/place/digits.py"], num_search=1, num_confirm=1)
    study.export(toy.folder)
    text = gzip.decompress((results / "digits-methods-events.jsonl.gz").read_bytes()).decode()
    assert "/secret/place" not in text
    assert '"cwd"' not in text
    assert {json.loads(line)["event"] for line in text.splitlines()} == {"sweep", "start", "end"}


def test_the_tables_by_hand(toy, at_090, monkeypatch):
    fill(toy)
    arms = study.confirmed(toy.state)
    shown = study.comparison_table(arms)
    # six differences of 0.11 to 0.16 (mean 0.135), all positive: p = 2 / 2^6, the only comparison made
    assert "| sam + wcr | sam + none | 6 | +0.135 |" in shown
    assert "| 0.031 | 0.031 | better |" in shown
    methods = study.method_table(arms, [0.0, 0.9])
    half = 2.570582 * math.sqrt(3.5e-4 / 6)  # variance of 0.81 ... 0.86 is 3.5e-4; t(0.975, 5)
    assert f"0.835 [{0.835 - half:.3f}, {0.835 + half:.3f}]" in methods
    assert methods.index("| sam | wcr |") < methods.index("| sam | none |")  # by validation
    assert "14 of them diverged" not in study.budget(toy.state)
    assert study.budget(toy.state).startswith(
        "**Not complete:** 14 of 1568 trials have run. Search: 2 trials (planned: "
    )
    assert "Confirmation: 12 trials." in study.budget(toy.state)


def test_the_page_keeps_what_people_wrote(toy, at_090, tmp_path, monkeypatch):
    fill(toy)
    page = tmp_path / "page.md"
    page.write_text(f"above\n{study.START}\nold table\n{study.END}\nbelow\n")
    monkeypatch.setattr(study, "PAGE", page)
    study.write(toy.folder)
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old table" not in text
    assert "| sam | wcr |" in text
    assert page.with_suffix(".png").stat().st_size > 10_000


def test_planned_comparisons_can_be_established_with_the_planned_seeds():
    """The smallest p of 12 pairs, times the number of comparisons, must be below the threshold."""
    assert max(len(study.PLANNED), len(study.PLANNED_LATER)) * 2 / 2**study.SWEEP.num_seeds < study.ALPHA
    assert not study.SWEEP.race
