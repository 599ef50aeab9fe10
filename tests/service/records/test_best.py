import shutil

import pytest

from service.records.best import best
from service.records.state import State
from tests.service.conftest import ToySweep


def best_by_arm(runs, **only):
    rows = best(runs, **only)
    return {(r["optimizer"], r["regularizer"], r["sparsity"]): (r["lam"], r["rho"], r["value"], r["n"]) for r in rows}


def test_best_is_per_arm_and_sparsity_and_counts_only_finished_trials(toy, tmp_path):
    toy.trial((0.99, 0.5), lam=1e-6)
    toy.trial((0.95, 0.8), lam=1e-4, rho=0.3)
    toy.trial((0.97, 0.6), optimizer="sgd", regularizer="none")
    toy.trial((1.0, 1.0), status="diverged", lam=1e-1)
    assert best_by_arm(tmp_path / "runs") == {
        ("sam", "wcr", 0.0): (1e-6, 0.1, 0.99, 1),
        ("sam", "wcr", 0.9): (1e-4, 0.3, 0.8, 1),
        ("sgd", "none", 0.0): (None, None, 0.97, 1),
        ("sgd", "none", 0.9): (None, None, 0.6, 1),
    }
    assert list(best_by_arm(tmp_path / "runs", optimizer="sgd")) == [("sgd", "none", 0.0), ("sgd", "none", 0.9)]
    assert best(tmp_path / "runs", skip_sweep="toy") == []
    assert best(tmp_path / "nothing") == []


def test_a_confirmed_configuration_beats_one_that_was_lucky_in_the_search(toy, tmp_path):
    toy.trial((0.9, 0.95), lam=1e-6)  # lucky once
    toy.trial((0.9, 0.90), lam=1e-5)
    for seed, acc in ((1, 0.84), (2, 0.93)):
        toy.trial((0.9, acc), lam=1e-5, seed=seed, phase="confirm", test=(0.1, 0.1))
    row = next(r for r in best(tmp_path / "runs") if r["sparsity"] == 0.9)
    assert (row["lam"], row["n"], row["seeds"]) == (1e-5, 2, "unseen")
    assert row["value"] == pytest.approx((0.84 + 0.93) / 2)  # without the 0.90 of the search


def test_without_a_confirmation_the_mean_is_over_the_seeds_of_the_search(toy, tmp_path):
    for seed, acc in ((0, 0.7), (1, 0.9)):
        toy.trial((0.9, acc), seed=seed)
    row = next(r for r in best(tmp_path / "runs") if r["sparsity"] == 0.9)
    assert (row["value"], row["n"], row["seeds"]) == (pytest.approx(0.8), 2, "search")


def test_configurations_that_are_trained_differently_have_rows_of_their_own(toy, tmp_path):
    toy.trial((0.9, 0.8))
    toy.trial((1.0, 1.0), max_epochs=2, eval_size=20)
    toy.trial((1.0, 0.9), model={"width": 8})
    rows = [r for r in best(tmp_path / "runs") if r["sparsity"] == 0.9]
    assert [(r["max_epochs"], r["eval_size"], r["model"], r["value"]) for r in rows] == [
        (3, None, {"width": 8}, 0.9),
        (3, None, {}, 0.8),
        (2, 20, {}, 1.0),
    ]


def test_a_row_has_the_configuration_and_how_it_was_trained(toy, tmp_path):
    toy.trial((0.9, 0.8), lam=1e-4, rho=0.2)
    row = best(tmp_path / "runs")[0]
    assert {
        k: row[k] for k in ("arm", "lam", "rho", "lr", "weight_decay", "max_epochs", "batch_size", "train_size")
    } == {
        "arm": "sam + wcr",
        "lam": 1e-4,
        "rho": 0.2,
        "lr": 0.1,
        "weight_decay": None,
        "max_epochs": 3,
        "batch_size": 8,
        "train_size": None,
    }


def test_a_trial_in_two_sweeps_counts_once(toy, tmp_path):
    toy.trial((0.9, 0.8))
    shutil.copytree(tmp_path / "runs" / "toy", tmp_path / "runs" / "copy")
    assert {r["n"] for r in best(tmp_path / "runs")} == {1}


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_trial_of_two_sweeps_is_at_the_target_of_both(tmp_path, names):
    """Whichever folder comes first. The second sweep adopted the trial and asks for another sparsity."""
    for name, target in zip(names, (0.9, 0.0), strict=True):
        toy = ToySweep(tmp_path / name)
        toy.trial((0.95, 0.8))
        toy.recorder.close()
        events = toy.folder / "events.jsonl"
        events.write_text(events.read_text().replace('"target_sparsity": 0.9}', f'"target_sparsity": {target}}}'))
    assert {row["sparsity"]: row["is_target"] for row in best(tmp_path)} == {0.0: True, 0.9: True}


def test_a_tilde_stands_for_the_home_folder(toy, tmp_path, monkeypatch):
    toy.trial((0.9, 0.8))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert best("~/runs") == best(tmp_path / "runs") != []
    with pytest.raises(
        ValueError, match=r"^runs: must be without ~, or begin with the home of a user, got '~nobody-x/y'"
    ):
        best("~nobody-x/y")


def test_two_records_of_a_trial_are_joined(tmp_path):
    for name, others in (("a", {}), ("b", {"snip uniform": (0.75, None)})):
        toy = ToySweep(tmp_path / name)
        toy.trial((0.9, 0.6), others=others)
        toy.recorder.close()
    rows = {(row["criterion"], row["sparsity"]): (row["value"], row["n"]) for row in best(tmp_path)}
    assert rows[("snip", 0.9)] == (0.75, 1)
    assert rows[("magnitude", 0.9)] == (0.6, 1)


def test_a_row_has_the_penalty_share_and_the_number_of_prunable_weights(toy):
    layers = [{"num_weights": 36}, {"num_weights": 64}]
    for seed, share in ((0, 0.02), (1, 0.04)):
        marks = {"diagnostics": {"penalty_share_start": share}, "layers": layers}
        toy.trial((0.9, 0.8), seed=seed, marks=marks)
    row = best(toy.folder.parent)[-1]
    assert (row["num_prunable"], row["penalty_share"]) == (100, pytest.approx(0.03))
    reread = next(iter(State.read(toy.folder).trials.values()))
    assert (reread.num_prunable, reread.diagnostics) == (100, {"penalty_share_start": 0.02})
    toy.trial((0.9, 0.85), lam=1e-7, marks={"layers": []})  # as earlier versions recorded it
    row = best(toy.folder.parent)[-1]
    assert (row["lam"], row["num_prunable"], row["penalty_share"]) == (1e-7, None, None)
