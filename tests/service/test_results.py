import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import service
from service.results import Result, best, read_result
from tests.service.conftest import fill


def test_one_line_imports_of_the_stable_interface():
    from service import Result, Sweep, best, read_result
    from sparsity import load, names
    from trainables import load_pruned

    assert all(callable(each) for each in (Result, Sweep, best, read_result, load, names, load_pruned))
    assert set(service.__all__) == {"Result", "Sweep", "best", "read_result"}
    with pytest.raises(AttributeError, match="module 'service' has no attribute 'rest'"):
        service.rest  # noqa: B018


def test_pandas_is_imported_for_a_table_alone():
    code = "import sys, service.results, service.sweep; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_tables_of_a_confirmed_sweep_by_hand(toy):
    fill(toy)
    result = Result(toy.summary(), toy.folder)
    assert result == toy.summary()  # it is the summary
    assert result.table.index.tolist() == ["sam + wcr", "sgd + none"]  # by validation, the best first
    assert result.table.columns.tolist() == [0.0, 0.9]
    assert result.table.loc["sam + wcr"].tolist() == pytest.approx([0.95, 0.72])  # test
    assert (result.table.index.name, result.table.columns.name) == ("arm", "sparsity")
    arm = result.arms.loc["sam + wcr"]
    assert arm[["optimizer", "regularizer", "lam", "rho", "seeds"]].tolist() == ["sam", "wcr", 1e-5, 0.1, 3]
    assert arm["value"] == pytest.approx(0.85)
    assert pd.isna(arm["difference"])  # no sam + none to compare with
    assert result.arms["rho"].dtype == float  # NaN for sgd, not None


def test_a_comparison_is_in_the_table_of_arms(toy):
    toy.trial((0.9, 0.8))
    seeds = range(1, 7)
    toy.confirm(seeds, regularizer="wcr", validation=0.8, test=[0.8 + 0.01 * s for s in seeds])
    toy.confirm(seeds, regularizer="none", validation=0.7, test=[0.7] * 6)
    arms = Result(toy.summary(), toy.folder).arms
    assert arms.loc["sam + wcr", "difference"] == pytest.approx(0.135)
    low, high = arms.loc["sam + wcr", ["low", "high"]]
    assert low < 0.135 < high
    assert arms.loc["sam + wcr", "p_holm"] == pytest.approx(2 / 64)
    assert np.isnan(arms.loc["sam + none", "p_holm"])


def test_the_table_without_a_confirmation_is_of_the_search(toy):
    toy.trial((0.99, 0.60), lam=1e-6)
    toy.trial((0.98, 0.90), lam=1e-5)
    result = Result(toy.summary(complete=False), toy.folder)
    assert result.table.loc["sam + wcr"].tolist() == [0.98, 0.90]
    assert result.arms.loc["sam + wcr", ["lam", "seeds"]].tolist() == [1e-5, 1]


def test_every_trial_is_in_trials_and_every_measurement_in_curves(toy):
    fill(toy)
    result = Result(toy.summary(), toy.folder)
    assert result.trials["status"].value_counts().to_dict() == {"finished": 9, "diverged": 1}
    (diverged,) = result.trials[result.trials["status"] == "diverged"].to_dict("records")
    assert (diverged["lam"], diverged["reason"], diverged["phase"]) == (0.1, "it diverged", "search")
    assert np.isnan(diverged["acc_pruned"])
    assert result.trials["seconds"].sum() == 15.0
    assert set(result.trials.index) == set(toy.state.trials)
    assert len(result.trials.columns) == len(set(result.trials.columns))
    curves = result.curves
    assert len(curves) == 9 * 2 + 6 * 2  # nine on validation, six on test too, each at two sparsities
    means = curves[(curves["split"] == "test") & (curves["sparsity"] == 0.9)].groupby("arm")["acc"].mean()
    assert means.to_dict() == {"sam + wcr": pytest.approx(0.72), "sgd + none": pytest.approx(0.99)}
    assert set(curves["pruning"]) == {"magnitude global"}


def test_without_a_finished_trial_all_tables_are_empty(toy):
    toy.trial(None, status="diverged")
    result = Result(toy.summary(), toy.folder)
    assert result.table.empty
    assert result.arms.empty
    assert result.curves.empty
    assert len(result.trials) == 1
    assert result.headline == "No trial has finished yet."
    assert "No trial has finished yet." in result._repr_html_()


def test_what_a_notebook_shows(toy):
    fill(toy)
    shown = Result(toy.summary(), toy.folder)._repr_html_()
    assert "Best: sam + wcr" in shown
    assert "test, unseen seeds" in shown
    assert "<td>0.720</td>" in shown
    assert "\x1b" not in shown


def test_read_result_reads_what_is_recorded_without_running(toy, monkeypatch):
    fill(toy)
    read = read_result("toy", toy.folder.parent)
    assert read["complete"] is False  # the sweep has not recorded its end
    assert read == toy.summary(complete=False)
    toy.recorder.summarized(toy.summary())
    monkeypatch.setenv("SPARSITY_SWEEPS_RUNS", str(toy.folder.parent))
    assert read_result("toy") == toy.summary()
    with pytest.raises(ValueError, match=r"name: must be one of the sweeps in .*runs, toy, got 'tow'"):
        read_result("tow")
    with pytest.raises(ValueError, match=r"name: must be one of the sweeps in .*nowhere, \(none\), got 'toy'"):
        read_result("toy", toy.folder / "nowhere")


def test_best_is_a_table_of_all_sweeps(toy, monkeypatch):
    fill(toy)
    found = best(toy.folder.parent, optimizer="sam")
    assert found[["arm", "sparsity", "value", "n", "seeds"]].to_dict("records") == [
        {"arm": "sam + wcr", "sparsity": 0.0, "value": pytest.approx(0.98), "n": 3, "seeds": "unseen"},
        {"arm": "sam + wcr", "sparsity": 0.9, "value": pytest.approx(0.85), "n": 3, "seeds": "unseen"},
    ]
    monkeypatch.setenv("SPARSITY_SWEEPS_RUNS", str(toy.folder.parent))
    assert set(best()["arm"]) == {"sam + wcr", "sgd + none"}
    assert best(regularizer="l1").empty
