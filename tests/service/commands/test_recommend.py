import json

import pytest
from typer.testing import CliRunner

from service.commands import app


def invoke(*words, runs):
    return CliRunner().invoke(app, ["recommend", *map(str, words), "--runs", str(runs)])


def test_values_interval_source_and_distance(tmp_path):
    words = ("resnet18", "--regularizer", "wcr", "--dataset", "cifar10", "--optimizer", "sam")
    words += ("--target-sparsity", "0.96", "--weight-decay", "5e-4")
    shown = invoke(*words, runs=tmp_path)
    assert shown.exit_code == 0
    assert shown.output.startswith("lam 5e-05   (5e-07 to 0.001)   rho 0.5\nrule: lam stays the same")
    assert "source: arXiv 2511.14282, table 9: sam + wcr, lam 5e-05, 0.925 at sparsity 0.96 (n = 1)" in shown.output
    assert "differs in: weight_decay not stated there, 0.0005 here\ndistance: 0.5" in shown.output
    entry = json.loads(invoke(*words, "--json", runs=tmp_path).output)
    assert (entry["lam"], entry["rho"], entry["rule"], entry["distance"]) == (5e-5, 0.5, "lam", 0.5)
    assert entry["differs"] == {"weight_decay": {"there": None, "here": 5e-4}}
    assert entry["source"]["target_sparsity"] == 0.96
    assert len(entry["others"]) == 3


def test_recalibrated_networks_have_values_of_their_own(tmp_path):
    """Those of docs/study.md: SGD with Hoyer-square at width 8."""
    words = ("small_resnet", "--regularizer", "hoyer_square", "--dataset", "cifar10", "--optimizer", "sgd")
    words += ("--model", "width=8", "--target-sparsity", "0.9")
    assert invoke(*words, runs=tmp_path).output.startswith("lam 0.000255 ")
    assert invoke(*words, "--recalibrate", runs=tmp_path).output.startswith("lam 2.16e-05 ")


def test_an_own_sweep_is_nearer(toy):
    toy.trial((0.9, 0.8), lam=3e-6, rho=0.2)
    words = ("small_resnet", "--regularizer", "wcr", "--optimizer", "sam", "--target-sparsity", "0.9", "--json")
    entry = json.loads(invoke(*words, runs=toy.folder.parent).output)
    assert (entry["lam"], entry["rho"], entry["distance"]) == (3e-6, 0.2, 0.0)
    assert entry["source"]["source"].startswith("sweep toy, trial ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resnet81", "--regularizer", "wcr"), "architecture: must be one of"),
        (("resnet18", "--regularizer", "none"), "regularizer: must have a lam to recommend, got none"),
        (("resnet18", "--regularizer", "wcr", "--lr", "-1"), "lr: must be greater than 0, got -1.0"),
        (
            ("resnet18", "--regularizer", "wcr", "--target-sparsity", "1"),
            "target_sparsity: must be less",
        ),
        (("resnet18", "--regularizer", "wcr", "--model", "width"), "model: must be KEY=VALUE"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, words, message):
    shown = invoke(*words, runs=tmp_path)
    assert shown.exit_code == 2
    assert message in shown.output
    assert shown.output.count("\n") == 1
