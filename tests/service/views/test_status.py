import pytest

from service.records.state import State
from service.views.console import make_console
from service.views.status import as_text, status_of
from service.views.tables import headline
from tests.service.conftest import fill, make_config


def printed(toy):
    console = make_console()
    with console.capture() as capture:
        console.print(as_text(status_of(toy.folder), toy.folder.parent))
    return capture.get()


def test_a_running_sweep_counts_its_trials_by_status(toy):
    toy.recorder.run_started(["python", "sweeps/toy.py"], num_search=4, num_confirm=2)
    toy.trial((0.9, 0.7))
    failed = toy.trial(None, status="error", lam=0.1)
    running = toy.start(lam=0.2)
    status = status_of(toy.folder)
    assert status["state"] == "running"
    assert status["process"].startswith("process ")
    assert status["command"] == ["python", "sweeps/toy.py"]
    assert status["phases"]["search"] == {"planned": 4, "error": 1, "finished": 1, "running": 1}
    assert status["phases"]["confirm"] == {"planned": 2}
    assert status["running"] == [{"trial": running, "arm": "sam + wcr", "epoch": 0, "of": 3}]
    assert status["failed"] == [{"trial": failed, "arm": "sam + wcr", "status": "error", "reason": "it diverged"}]
    shown = printed(toy)
    assert "toy: running (process " in shown
    assert "search   1 of 4 trials finished, 1 error, 1 running" in shown


def test_trials_that_confirmed_an_earlier_selection_do_not_count(toy):
    toy.recorder.run_started(["python"], num_search=2, num_confirm=1)
    for lam, acc in ((1e-6, 0.7), (1e-5, 0.8)):
        toy.trial((0.9, acc), lam=lam)
        toy.trial((0.9, acc), lam=lam, seed=1, phase="confirm", test=(0.9, acc))
    assert status_of(toy.folder)["phases"]["confirm"] == {"planned": 1, "finished": 1}


def test_a_running_trial_counts_the_epochs_of_all_rounds(toy):
    config = make_config(
        pruning_schedule="imp", pruning_sched={"fraction": 0.5}
    )  # 4 trainings of 3 epochs to reach 0.9
    key = toy.start(config)
    toy.recorder.trial_evaluated(key, {"epoch": 7, "loss": 0.5, "acc_dense": 0.5, "acc_pruned": 0.25})
    assert status_of(toy.folder)["running"] == [{"trial": key, "arm": "sam + wcr", "epoch": 7, "of": 12}]


def test_without_a_process_running_trials_are_interrupted(toy):
    toy.start()
    toy.recorder.close()
    status = status_of(toy.folder)
    assert (status["state"], status["process"], status["running"]) == ("stopped", "", [])
    assert status["phases"]["search"] == {"planned": 1, "interrupted": 1}


@pytest.mark.parametrize(("complete", "state"), [(True, "complete"), (False, "stopped")])
def test_a_sweep_is_complete_once_its_summary_is(toy, complete, state):
    toy.trial((0.9, 0.7))
    toy.recorder.summarized(toy.summary(complete))
    toy.recorder.close()
    assert status_of(toy.folder)["state"] == state


def test_an_extended_sweep_is_not_complete(toy):
    toy.trial((0.9, 0.7))
    toy.recorder.summarized(toy.summary())
    toy.recorder.run_started(None, num_search=2, num_confirm=0)
    toy.trial((0.9, 0.8), lam=1e-6)
    toy.recorder.close()
    assert status_of(toy.folder)["state"] == "stopped"


def test_a_retried_sweep_is_not_complete(toy):
    toy.trial(None, status="error")
    toy.recorder.summarized(toy.summary())
    toy.recorder.retry()
    toy.recorder.close()
    assert status_of(toy.folder)["state"] == "stopped"


def test_the_best_has_the_highest_mean_over_the_seeds_of_the_search(toy):
    for seed, lucky, steady in ((0, 0.9, 0.7), (1, 0.1, 0.8)):
        toy.trial((0.9, lucky), lam=1e-6, seed=seed)
        toy.trial((0.9, steady), lam=1e-5, seed=seed)
    best = status_of(toy.folder)["best"]
    assert (best["lam"], best["metric"], best["num_seeds"]) == (1e-5, "acc_pruned", 2)
    assert best["value"] == pytest.approx(0.75)
    line = "best     sam + wcr, lam 1e-05, rho 0.1, lr 0.1: acc_pruned 0.7500 on validation (2 seeds of the search"
    assert line in printed(toy)


def test_a_complete_sweep_has_its_result_on_test_beside_the_best_of_the_search(toy):
    """The same as the headline of `report`, so that the two do not seem to contradict each other."""
    fill(toy)
    toy.recorder.run_started(["python", "toy.py"], num_search=4, num_confirm=6)
    assert status_of(toy.folder)["confirmed"] is None
    summary = toy.summary()
    toy.recorder.summarized(summary)
    status = status_of(toy.folder)
    assert status["best"]["value"] == 0.9
    confirmed = status["confirmed"]
    assert (confirmed["arm"], confirmed["metric"], confirmed["num_seeds"]) == ("sam + wcr", "acc", 3)
    assert confirmed["value"] == pytest.approx((0.70 + 0.74 + 0.72) / 3)
    shown = printed(toy)
    assert "best     sam + wcr, lam 1e-05, rho 0.1, lr 0.1: acc_pruned 0.9000 on validation (1 seed of" in shown
    assert (
        "result   sam + wcr, lam 1e-05, rho 0.1, lr 0.1: acc 0.7200 at sparsity 0.9 on test (3 unseen seeds, trial"
        in shown
    )
    assert "test acc 0.720" in headline(summary)


def test_warnings_are_shown(toy):
    key = toy.trial((0.1, 0.1), marks={"warnings": ["collapsed: the network is constant"]})
    assert State.read(toy.folder).trials[key].warnings == ["collapsed: the network is constant"]
    assert "collapsed: the network is constant" in printed(toy)


def test_failed_trials_that_do_not_fit_any_more_are_not_offered_again(toy):
    key = toy.trial(None, status="error")
    toy.trial((0.9, 0.7), lam=0.1)
    toy.recorder.sweep_changed(toy.state.identity, left_out=[key])
    assert status_of(toy.folder)["failed"] == []
    assert "retry" not in printed(toy)


def test_failed_trials_come_with_the_command_that_runs_them_again(toy):
    toy.trial(None, status="diverged")
    assert "retry" not in printed(toy)  # a diverged trial would diverge again
    toy.trial(None, status="error", lam=0.1)
    assert f"To run failed trials again: python -m sweeps retry toy --runs {toy.folder.parent}" in " ".join(
        printed(toy).replace(".venv/bin/", "").split()
    )
