import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage
from typer.testing import CliRunner

from service.commands import app
from service.views.optuna_study import write_study


def load(path):
    return optuna.load_study(study_name="toy", storage=JournalStorage(JournalFileBackend(str(path))))


def test_a_study_has_the_search_with_its_values_and_failures(toy):
    best = toy.trial((0.9, 0.8), lam=1e-4)
    toy.trial((0.9, 0.6), optimizer="sgd", regularizer="none", lr=0.3)
    toy.trial(None, status="diverged", lam=1e-2)
    toy.confirm([10, 11], validation=0.8, test=(0.8, 0.8), lam=1e-4)
    done = CliRunner().invoke(app, ["optuna", "toy", "--runs", str(toy.folder.parent)])
    assert done.exit_code == 0, done.output
    assert "toy: 3 trials of the search" in done.output
    study = load(toy.folder / "optuna.log")
    assert [trial.value for trial in study.trials] == [0.8, 0.6, None]
    assert study.best_trial.user_attrs["trial"] == best
    assert study.best_params == {"optimizer": "sam", "regularizer": "wcr", "lam": 1e-4, "opt/lr": 0.1}
    assert study.trials[1].params == {"optimizer": "sgd", "regularizer": "none", "opt/lr": 0.3}
    assert study.trials[2].user_attrs["reason"] == "it diverged"
    assert study.trials[0].distributions["lam"].log


def test_writing_again_replaces_the_study(toy):
    for lam in (1e-4, 1e-3):
        toy.trial((0.9, 0.8), lam=lam)
        num = write_study(toy.state, toy.folder / "optuna.log")
    assert num == len(load(toy.folder / "optuna.log").trials) == 2
    assert load(toy.folder / "optuna.log").trials[0].distributions["lam"].log


def test_a_search_without_results_is_refused(toy):
    toy.start()
    with pytest.raises(ValueError, match="optuna: toy must have a finished trial of the search, got none"):
        write_study(toy.state, toy.folder / "optuna.log")
