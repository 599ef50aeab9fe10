import json

import pytest
from optuna.distributions import FloatDistribution as Float
from typer.testing import CliRunner

from service.commands import app
from service.commands.train import config_of, winner_of
from service.search import known
from service.search.known import Known
from tests.service._sweeps import make

SMALL = ("--model", "width=2", "--model", "depth=1", "--train-size", "64", "--batch-size", "16", "--epochs", "1")


KNOWN = {"dataset": "digits", "architecture": "small_resnet", "optimizer": "sgd", "regularizer": "wcr"}


@pytest.fixture(autouse=True)
def one_known_setting(monkeypatch):
    one = Known(**KNOWN, source="a page", lam=5e-5, lr=0.2, weight_decay=0.04, target_sparsity=0.96)
    monkeypatch.setattr(known, "published", lambda: [one])


def invoke(*words):
    return CliRunner().invoke(app, ["train", *map(str, words)])


def test_one_network_is_trained_with_known_values_and_exported(tmp_path):
    words = ("--optimizer", "sgd", "--regularizer", "wcr", "--to", tmp_path / "out", "--no-measure", "--runs", tmp_path)
    shown = invoke("digits", *SMALL, *words, "--seed", "7")
    assert shown.exit_code == 0, shown.output
    assert "sgd + wcr: lam 5e-05, lr 0.2, weight_decay 0.04 (from the nearest known setting)" in shown.output
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    trained = config["trial_config"]
    assert (trained["lam"], trained["seed"], trained["max_epochs"]) == (5e-5, 7, 1)
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert config["target_sparsity"] == 0.96


def test_a_given_lam_is_taken_and_an_existing_folder_is_kept(tmp_path):
    words = ("--optimizer", "sgd", "--regularizer", "wcr", "--lam", "1e-6", "--to", tmp_path, "--runs", tmp_path)
    shown = invoke("digits", *SMALL, *words)
    assert shown.exit_code == 2
    assert f"to: must be a folder that does not exist yet, got {tmp_path}" in shown.output
    assert shown.output.startswith("sgd + wcr: lr 0.2, weight_decay 0.04 (")


def test_the_winner_of_a_sweep_gets_an_unused_seed(toy):
    toy.trial((0.9, 0.8), seed=0)
    toy.trial((0.9, 0.8), lam=2e-5, phase="confirm", test=(0.9, 0.7), seed=3)
    config, folder, root = winner_of("toy", toy.folder.parent)
    assert (config.lam, config.seed, config.read_test) == (2e-5, 4, False)
    assert (folder, root) == (toy.folder, None)
    assert winner_of("toy", toy.folder.parent, seed=9, max_epochs=2)[0].max_epochs == 2


def test_the_winner_is_pruned_as_the_changed_sweep_is(toy):
    toy.trial((0.9, 0.8), others={"lamp global": (0.5, None)})
    toy.trial((0.9, 0.7), lam=2e-5, others={"lamp global": (0.6, None)})
    assert winner_of("toy", toy.folder.parent)[0].lam != 2e-5
    changed = make(target_sparsity=0.9, sparsities=(0.5,), criterion=("lamp", "magnitude")).identity()
    toy.recorder.sweep_changed(changed, left_out=[])
    config, *_ = winner_of("toy", toy.folder.parent)
    assert (config.lam, config.target_sparsity, config.sparsities) == (2e-5, 0.9, (0.5,))
    assert (config.criterion, [method.criterion for method in config.more_pruning]) == ("lamp", ["magnitude"])


def test_parameters_without_an_initial_value_have_the_known_one(tmp_path, monkeypatch):
    ranges = {"lam": Float(1e-6, 1e-3, log=True)}
    sweep = make(ranges=ranges, optimizer="sgd", regularizer="wcr", opt={"lr": 0.1}, runs=tmp_path, tuning="paper")
    assert config_of(sweep).lam == 5e-5
    monkeypatch.setattr(known, "published", lambda: [])
    with pytest.raises(ValueError, match=r"^train: lam must be given as options \(no known setting has a value"):
        config_of(sweep)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--best", "toy"), "best: must be a sweep with a winner, and toy has none yet"),
        (
            ("digits", "--best", "toy", "--lam", "1e-5"),
            "best: must be given without a sweep and its options, got",
        ),
        (("digits", "--optimizer", "sgd"), "train: must have one arm (give --optimizer and --regularizer), got sgd"),
    ],
)
def test_wrong_input_is_one_line(toy, words, message):
    shown = invoke(*words, "--runs", toy.folder.parent)
    assert shown.exit_code == 2
    assert message in shown.output
    assert shown.output.count("\n") == 1


def test_an_unknown_format_is_refused_before_the_training(tmp_path):
    words = ("--optimizer", "sgd", "--regularizer", "wcr", "--format", "onix", "--to", tmp_path / "out")
    shown = invoke("digits", *words, "--runs", tmp_path)
    assert shown.exit_code == 2
    assert "format: must be one of onnx, safetensors, torch-export, got 'onix'" in shown.output
