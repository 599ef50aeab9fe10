"""Warm starts on a table with a known optimum, and their numbers by hand."""

import json

import numpy as np
import optuna
import pytest

from benchmarks import _page, warm_starts
from benchmarks._strategies import search
from benchmarks.warm_starts import KINDS, PriorSearch, compare, num_of_prior, num_until, ranked_source
from tests.benchmarks.test_strategies import ARM, BEST, TABLE, Trainings

AWAY = {"lam": 1e-6, "opt/rho": 0.5, "opt/weight_decay": 1e-3}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name, value in {"NUM_SOURCE": 8, "NUM_TRIALS": 4, "SHOWN": (1, 4)}.items():
        monkeypatch.setattr(warm_starts, name, value)


def test_a_source_is_ranked_and_moved_into_the_arms_ranges():
    found = [(0.2, AWAY), (float("nan"), BEST), (0.9, BEST | {"lam": 1.0}), (0.5, ARM.initial_point)]
    (best, first), (_, middle), (worst, last) = ranked_source(found, ARM)
    assert (first, middle, last) == (1, 0.5, 0)
    assert best == BEST | {"lam": ARM.space["lam"].high}
    assert worst == AWAY
    assert ranked_source(found, ARM, reverse=True)[0] == (AWAY, 1)


def test_numbers_by_hand():
    assert num_until([0.5, 0.1, 0.2, 0.0], 0.1) == 2
    assert num_until([0.5, 0.2], 0.1) == 3
    assert [num_of_prior(24, n) for n in (0, 3, 6, 12, 20)] == [24, 18, 12, 0, 0]
    assert num_of_prior(4, 6) == 2


def test_ranks_become_quantiles_of_the_arms_own_results(monkeypatch):
    seen = []
    create_trial = optuna.create_trial
    monkeypatch.setattr(optuna, "create_trial", lambda **fields: seen.append(fields) or create_trial(**fields))
    train = Trainings(TABLE, 0)
    prior = [(BEST, 1.0), (ARM.initial_point, 0.5), (AWAY, 0.0)]
    found = search(ARM, train, 3, 0, kind=PriorSearch, prior=prior)
    values = [value for value, _ in found]
    of_prior = [f["value"] for f in seen if f.get("value") is not None and f["params"] == BEST]
    assert of_prior == pytest.approx([values[0], max(values[:2])])  # the initial point needs no study
    worst = [f["value"] for f in seen if f.get("value") is not None and f["params"] == AWAY]
    assert worst == pytest.approx([values[0], min(values[:2])])


def test_a_good_source_shortens_the_search_and_a_misleading_one_does_not():
    good, bad = (compare(ARM, TABLE, (ARM, TABLE, 30), 2, reverse=reverse) for reverse in (False, True))
    assert good.keys() == KINDS.keys()
    assert good["cold"] == bad["cold"]
    for kind in ("three points", "three points and prior"):
        assert good[kind]["regret"][0][0] < good["cold"]["regret"][0][0]
        assert bad[kind]["regret"][0][0] > good["cold"]["regret"][0][0]


def test_the_command_writes_the_numbers_and_the_table(tmp_path, monkeypatch):
    result = {"an arm, from 15 epochs": compare(ARM, TABLE, (ARM, TABLE, 15), 2)}
    monkeypatch.setattr(warm_starts, "all_cases", lambda *_: result)
    monkeypatch.setattr(warm_starts, "RESULTS", tmp_path)
    monkeypatch.setattr(_page, "RESULTS", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: warm starts -->\n<!-- end -->\nafter\n")
    warm_starts.main(["--write", str(page)])
    (path,) = tmp_path.glob("*-warm-starts.json")
    assert json.loads(path.read_text())["cases"].keys() == result.keys()
    mean, error = result["an arm, from 15 epochs"]["cold"]["regret"][0]
    assert np.isfinite(error)
    assert f"| an arm, from 15 epochs | cold | {mean:.4f} ± {error:.4f} |" in page.read_text()
    assert page.read_text().endswith("after\n")
