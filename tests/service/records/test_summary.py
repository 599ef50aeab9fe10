import pytest

from service.records.summary import configurations_by_arm, current_summary
from service.views.tables import as_markdown
from tests.service._sweeps import make
from tests.service.conftest import ToySweep, fill


def test_the_summary_by_hand(toy):
    fill(toy)
    summary = toy.summary()
    arms = {row["arm"]: row for row in summary["arms"]}
    curve = {level: cell["value"] for level, cell in arms["sam + wcr"]["curve"].items()}
    assert curve == {"0": 0.98, "0.9": 0.90}  # of the best configuration at 0.9, although another is better dense
    assert (arms["sam + wcr"]["lam"], arms["sam + wcr"]["num_configurations"]) == (1e-5, 2)
    assert arms["sam + wcr"]["num_trials"] == 3  # with the diverged one
    assert (arms["sgd + none"]["lam"], arms["sgd + none"]["rho"]) == (None, None)
    winner = summary["winner"]
    assert (winner["arm"], winner["seeds"]) == ("sam + wcr", [1, 2, 3])
    assert winner["validation"]["0.9"] == {"value": pytest.approx(0.85), "spread": pytest.approx(0.05), "n": 3}
    assert winner["test"]["0.9"] == {"value": pytest.approx(0.72), "spread": pytest.approx(0.02), "n": 3}
    assert (winner["baseline"], winner["against_baseline"]["difference"]) == ("sgd + none", pytest.approx(-0.27))
    assert summary["counts"] == {"finished": 9, "diverged": 1}
    assert summary["seconds"] == 15.0  # 10 trials of 1.5 s
    assert [(row["status"], row["reason"]) for row in summary["failures"]] == [("diverged", "it diverged")]


def test_the_winner_is_chosen_on_validation_never_on_test(toy):
    fill(toy)
    assert toy.summary()["winner"]["optimizer"] == "sam"  # on test, sgd has 0.99


def test_without_a_finished_trial_there_is_no_winner(toy):
    toy.trial(None, status="diverged")
    summary = toy.summary()
    assert (summary["winner"], summary["arms"], summary["levels"]) == (None, [], {})


def test_the_best_of_the_search_has_the_highest_mean_over_its_seeds(toy):
    for seed, accs in enumerate([(0.9, 0.2), (0.7, 0.8)]):
        for lam, acc in zip((1e-6, 1e-5), accs, strict=True):
            toy.trial((0.99, acc), lam=lam, seed=seed)
    summary = toy.summary(complete=False)
    assert summary["winner"]["lam"] == 1e-6  # mean 0.8; the other has 0.5
    cell = summary["arms"][0]["curve"]["0.9"]
    assert cell == {"value": pytest.approx(0.8), "spread": pytest.approx(0.02**0.5), "n": 2}


def test_a_configuration_with_fewer_seeds_than_the_finalists_is_not_the_best(toy):
    toy.trial((0.99, 0.9), lam=1e-7)  # by luck, on its only seed
    for seed in (0, 1, 2):
        toy.trial((0.99, 0.8), lam=1e-6, seed=seed)
        toy.trial((0.99, 0.7), lam=1e-5, seed=seed)
    (row,) = toy.summary(complete=False)["arms"]
    assert (row["lam"], row["num_seeds"], row["num_configurations"], row["value"]) == (1e-6, 3, 3, pytest.approx(0.8))


def test_other_metrics_are_means_over_the_unseen_seeds(toy):
    for seed, distance in ((1, 4.0), (2, 6.0)):
        toy.trial((0.9, 0.8), phase="confirm", test=(0.9, 0.7), seed=seed, more={"hausdorff": distance})
    toy.trial((0.9, 0.8), more={"hausdorff": 9.0})
    cell = toy.summary()["confirmed"][0]["metrics"]["hausdorff"]["0.9"]
    assert (cell["value"], cell["n"]) == (5.0, 2)


def test_metrics_of_the_test_split_alone_are_in_the_rows_of_the_confirmation(toy):
    for seed, acc in ((1, 0.25), (2, 0.75)):
        measured = {"more": {"acc_greedy": 0.1}, "more_test": {"acc_generated": acc}}
        toy.trial((0.9, 0.8), phase="confirm", test=(0.9, 0.7), seed=seed, **measured)
    toy.trial((0.9, 0.8), more={"acc_greedy": 0.1})
    summary = toy.summary()
    assert list(summary["arms"][0]["metrics"]) == ["acc_greedy"]
    assert list(summary["confirmed"][0]["metrics"]) == ["acc_greedy", "acc_generated"]
    assert summary["confirmed"][0]["metrics"]["acc_generated"]["0.9"]["value"] == 0.5


def test_metrics_that_some_records_lack_are_left_out(toy):
    toy.trial((0.9, 0.8), more={"macs_left": 0.5, "macs": 100})
    assert list(toy.summary()["arms"][0]["metrics"]) == ["macs_left"]
    toy.trial((0.9, 0.7), lam=1e-3)  # of an earlier version
    assert toy.summary()["arms"][0]["metrics"] == {}


def test_holms_correction_covers_every_tested_arm(toy):
    toy.trial((0.9, 0.8))
    seeds = range(1, 7)
    for regularizer in ("wcr", "l1"):
        toy.confirm(seeds, regularizer=regularizer, validation=0.8, test=[0.8 + 0.01 * s for s in seeds])
    toy.confirm(seeds, regularizer="none", validation=0.7, test=[0.7] * 6)
    confirmed = toy.summary()["confirmed"]
    corrected = {row["regularizer"]: row["against"]["p_holm"] for row in confirmed if "against" in row}
    assert corrected == {"wcr": 2 * 2 / 64, "l1": 2 * 2 / 64}


def test_the_winner_is_among_the_arms_with_the_most_seeds(toy):
    toy.trial((0.9, 0.8))
    toy.confirm([1, 2], regularizer="wcr", validation=0.99, test=[0.9, 0.9])  # left the race
    toy.confirm([1, 2, 3], regularizer="none", validation=0.8, test=[0.8, 0.8, 0.8])
    summary = toy.summary()
    assert summary["winner"]["regularizer"] == "none"
    assert "against_baseline" not in summary["winner"]


def test_collapsed_trials_and_warnings_are_counted(toy):
    marks = {"warnings": ["collapsed: the network is constant"]}
    toy.trial((0.9, 0.1), lam=1e-6, more={"collapsed": 0.0})
    key = toy.trial((0.1, 0.1), lam=1e-5, more={"collapsed": 1.0}, marks=marks)
    toy.trial((0.9, 0.8), optimizer="sgd", regularizer="none", more={"collapsed": 0.0})
    summary = toy.summary()
    assert [row["num_collapsed"] for row in summary["arms"]] == [1, 0]
    assert summary["warnings"] == [{"trial": key, "arm": "sam + wcr", "warning": marks["warnings"][0]}]
    assert summary["arms"][0]["metrics"] == {}  # `collapsed` is no metric of its own


def test_configurations_are_grouped_by_arm_and_ordered_by_seed(toy):
    for seed, lam in ((1, 1e-5), (0, 1e-5), (0, 1e-6)):
        toy.trial((0.9, 0.8), lam=lam, seed=seed)
    groups = configurations_by_arm(toy.state.finished("search"))
    seeds = [[(t.config["lam"], t.config["seed"]) for t in trials] for trials in groups["sam + wcr"]]
    assert sorted(map(sorted, seeds)) == [[(1e-6, 0)], [(1e-5, 0), (1e-5, 1)]]


def test_trials_of_one_configuration_belong_together_however_they_were_evaluated(toy):
    toy.trial((0.9, 0.6), seed=0, num_evaluations=2)
    toy.trial((0.9, 0.8), seed=1, num_evaluations=3, sparsities=(0.5,))
    (row,) = toy.summary()["arms"]
    assert (row["value"], row["num_configurations"], row["num_seeds"]) == (pytest.approx(0.7), 1, 2)


def test_a_trial_that_lacks_the_goal_is_left_out_of_the_tables(toy):
    fill(toy)
    for trial in list(toy.state.trials.values())[:1]:
        trial.pruned["magnitude global"]["curve"].pop()  # it was never pruned to 0.9
    summary = toy.summary()
    assert summary["levels"] == {"magnitude global": ["0", "0.9"]}
    as_markdown(summary)


def test_a_confirmed_configuration_that_lost_too_much_before_pruning_does_not_win(tmp_path):
    toy = ToySweep(tmp_path / "runs" / "drop", make(target_sparsity=0.9, max_dense_drop=0.05).identity())
    toy.trial((0.95, 0.5))
    toy.trial((0.8, 0.9), lam=2e-5)  # it was confirmed before the limit was given
    for lam, accs in ((1e-5, (0.95, 0.5)), (2e-5, (0.8, 0.79))):
        toy.trial(accs, lam=lam, seed=1, phase="confirm", test=accs)
    summary = toy.summary()
    assert [(row["lam"], row["feasible"]) for row in summary["confirmed"]] == [(1e-5, True)]
    assert [row["lam"] for row in summary["superseded"]] == [2e-5]
    assert summary["winner"]["lam"] == 1e-5
    toy.recorder.close()


def test_what_confirmed_an_earlier_selection_is_listed_apart(toy):
    """lam 1e-6 was confirmed with six seeds. Then lam 1e-5 was tried; it is better in the search."""
    seeds = range(1, 7)
    toy.trial((0.9, 0.5), lam=1e-6)
    toy.trial((0.9, 0.6), regularizer="none")
    toy.confirm(seeds, lam=1e-6, validation=0.7, test=[0.7] * 6)
    toy.confirm(seeds, regularizer="none", validation=0.6, test=[0.6 + 0.01 * s for s in seeds])
    toy.trial((0.9, 0.8), lam=1e-5)
    (row,) = [row for row in toy.summary()["confirmed"] if row["regularizer"] == "wcr"]
    assert row["lam"] == 1e-6  # until the new selection has an unseen seed
    toy.confirm(seeds[:5], lam=1e-5, validation=0.65, test=[0.65] * 5)
    toy.trial(None, status="error", lam=1e-5, phase="confirm", seed=6)
    summary = toy.summary()
    assert [(row["regularizer"], row["lam"], row["seeds"]) for row in summary["confirmed"]] == [
        ("none", None, [1, 2, 3, 4, 5, 6]),
        ("wcr", 1e-5, [1, 2, 3, 4, 5]),
    ]
    assert [(row["lam"], row["seeds"]) for row in summary["superseded"]] == [(1e-6, [1, 2, 3, 4, 5, 6])]
    assert summary["winner"]["regularizer"] == "none"  # the best configuration with six seeds
    text = as_markdown(summary)
    assert "selected another configuration: sam + wcr, lam 1e-06, rho 0.1, lr 0.1 (6 unseen seeds). The tables" in text


def test_holms_correction_leaves_out_earlier_selections(toy):
    seeds = range(1, 7)
    for lam, acc in ((1e-6, 0.5), (1e-5, 0.8)):
        toy.trial((0.9, acc), lam=lam)
        toy.confirm(seeds, lam=lam, validation=acc, test=[acc + 0.01 * s for s in seeds])
    toy.confirm(seeds, regularizer="none", validation=0.4, test=[0.4] * 6)
    (corrected,) = [row["against"]["p_holm"] for row in toy.summary()["confirmed"] if "against" in row]
    assert corrected == 2 / 64  # of 2 ** 6 signs, two are as extreme; there is one comparison


def test_a_finalist_that_later_configurations_beat_is_not_selected(tmp_path):
    """On the search's seed, 1e-7 and 1e-6 were the finalists. Then 1e-5 beat 1e-7, which has the best mean of all."""
    toy = ToySweep(tmp_path / "runs" / "more", make(target_sparsity=0.9, num_finalists=2).identity())
    for lam, accs in ((1e-7, (0.5, 1.0, 1.0)), (1e-6, (0.6, 0.6, 0.6)), (1e-5, (0.7, 0.7, 0.7))):
        for seed, acc in enumerate(accs):
            toy.trial((0.9, acc), lam=lam, seed=seed)
    (row,) = toy.summary()["arms"]
    assert (row["lam"], row["value"], row["num_seeds"]) == (1e-5, pytest.approx(0.7), 3)
    toy.recorder.close()


def test_the_costs_of_the_exported_network_stay_while_it_is_the_winners(toy):
    winner = toy.trial((0.9, 0.8))
    exported = {"trial": winner, "costs": [{"macs": 7}]}
    toy.recorder.summarized(toy.summary() | {"exported": exported})
    toy.trial((0.9, 0.7), lam=1e-6)
    assert current_summary(toy.state)["exported"] == exported
    toy.trial((0.9, 0.9), lam=1e-4)
    assert "exported" not in current_summary(toy.state)


def test_the_winners_network_is_that_of_its_best_seed_on_validation(toy):
    fill(toy)
    winner = toy.summary()["winner"]
    assert winner["seeds"] == [1, 2, 3]
    assert toy.state.trials[winner["checkpoint_trial"]].config["seed"] == 2  # 0.80, 0.90, 0.85
