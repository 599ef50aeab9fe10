import io
import json
import shutil
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from service import export_winner as module
from service.commands import app
from service.commands.export import choose
from service.export_winner import export_winner
from service.records.exported import exported_folder, read_export
from sparsity.import_strings import source_of
from tests.trainables._tiny_tasks import equal_states
from trainables import load_pruned
from trainables.config import TrialConfig
from trainables.loop import load_task
from trainables.own_code import sources_of, write_sources
from trainables.pruning import read_description
from trainables.runner import TrialRunner

CONFIG = TrialConfig(
    dataset="digits",
    architecture="small_resnet",
    model={"width": 4, "depth": 1},
    train_size=64,
    opt={"lr": 0.1},
    max_epochs=1,
    batch_size=32,
    num_evaluations=1,
    target_sparsity=0.9,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a trial that was trained."""
    folder = tmp_path_factory.mktemp("trial")
    runner = TrialRunner(CONFIG, folder, lambda: load_task(CONFIG))
    while runner.advance()["status"] == "running":
        pass
    return folder


@pytest.fixture
def winner(toy, trained):
    """The key of the winner of a recorded sweep, with its networks."""
    key = toy.start(CONFIG)
    shutil.copytree(trained, toy.state.trial_folder(key))
    toy.recorder.trial_ended(key)
    toy.recorder.summarized(toy.summary())
    return key


@pytest.fixture
def export(toy, tmp_path):
    """A function: what `sweeps export toy ... --to TO` prints, its exit code, and the folder TO."""

    def run(*words):
        to = tmp_path / "to"
        done = CliRunner().invoke(app, ["export", *words, "--runs", str(toy.folder.parent), "--to", str(to)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output, done.exit_code, to

    return run


def test_the_winner_is_that_of_all_trials_so_far(toy):
    toy.trial((0.9, 0.7))
    toy.recorder.summarized(toy.summary())
    better = toy.trial((0.9, 0.8), lam=1e-6)
    assert choose(toy.state, "", None) == (better, 0.9)


def test_the_winner_is_exported_and_loads_again(toy, winner, export):
    shown, code, to = export("toy", "--no-measure")
    assert code == 0, shown
    assert f"toy, trial {winner} pruned to 0.9: exported to {to} (input images: uint8, any, 1, 8, 8)" in shown
    assert equal_states(load_pruned(to), load_pruned(toy.state.trial_folder(winner) / "pruned" / "0.9"))
    entry = read_export(to)
    assert (entry["sweep"], entry["trial"], entry["sparsity"]) == ("toy", winner, 0.9)


def test_the_result_as_json(toy, winner, tmp_path):
    words = ["export", "toy", "--no-measure", "--json", "--to", str(tmp_path / "to"), "--runs", str(toy.folder.parent)]
    shown = json.loads(CliRunner().invoke(app, words).stdout)
    assert (shown["folder"], shown["trial"], shown["sparsity"]) == (str(tmp_path / "to"), winner, 0.9)
    assert (tmp_path / "to" / shown["formats"]["safetensors"]["file"]).exists()


def test_a_shrunk_network_loads_again(toy, winner, export):
    shown, code, to = export("toy", "--no-measure", "--shrink", "--multiple-of", "1", "--level", "0.98")
    assert code == 0, shown
    smaller = load_pruned(to)
    before = load_pruned(toy.state.trial_folder(winner) / "pruned" / "0.9")
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in before.parameters())
    described, state = read_description(to), smaller.state_dict()
    for name, tensors in (
        ("model_sparsity", list(smaller.parameters())),
        ("prunable_sparsity", [state[weight] for weight in described["prunable"]]),
    ):
        assert described[name] == sum(int((t == 0).sum()) for t in tensors) / sum(t.numel() for t in tensors)
        assert 0 < described[name] < 0.98


def test_another_sparsity_is_pruned_again_from_the_trained_network(toy, winner, export):
    shown, code, to = export("toy", "--no-measure", "--level", "0.75", "--trial", winner)
    assert code == 0, shown
    config = json.loads((to / "config.json").read_text())
    assert config["prunable_sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert config["validation"].keys() == {"acc", "loss", "collapsed"}


def test_bad_input_is_one_line(toy, winner, export, tmp_path):
    folder = toy.state.trial_folder(winner)

    def refused(*words):
        shown, code, to = export(*words)
        assert (code, shown.count("\n")) == (2, 1), shown
        assert not to.exists()
        return shown

    assert refused("other").startswith("sweep: must be one of toy (in ")
    assert refused("toy", "--trial", "x").startswith("trial: must be the key of a finished trial of toy (")
    assert (
        refused("toy", "--level", "1.5") == "sparsity: must be in [0, 1) (the fraction of weights removed), got 1.5\n"
    )
    assert refused("toy", "--format", "h5") == "format: must be one of onnx, safetensors, torch-export, got 'h5'\n"
    shutil.rmtree(folder / "trained")
    assert refused("toy", "--level", "0.5").startswith("export: level must be one of 0.9 (trial ")
    (folder / "pruned" / "0.9" / "model.safetensors").write_bytes(b"cut off")
    assert "model.safetensors must hold the weights of small_resnet" in refused("toy", "--no-measure")
    shutil.rmtree(folder / "pruned")
    assert refused("toy").startswith("export: trial must have kept its networks, got ")
    (tmp_path / "to").mkdir()
    shown, code, _ = export("toy")
    assert (shown.startswith("to: must be a folder that does not exist yet, got "), code) == (True, 2)


def test_without_a_winner_a_trial_must_be_named(toy, export):
    toy.trial(None, status="diverged")
    shown, code, _ = export("toy")
    assert shown == "export: toy has no winner yet, so give the key of a finished trial with --trial\n"
    assert code == 2


def test_a_network_of_ones_own_is_exported_from_the_sweep_s_copy(toy, export, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "exported_net.py"
    file.write_text("from trainables.architectures.small_resnet import small_resnet as build\n")
    name = f"{file}:build"
    fields = CONFIG.model_dump() | {"architecture": name, "sources": {name: source_of(name).digest}}
    config = TrialConfig.model_validate(fields)
    key = toy.start(config)
    runner = TrialRunner(config, toy.state.trial_folder(key), lambda: load_task(config))
    while runner.advance()["status"] == "running":
        pass
    toy.recorder.trial_ended(key)
    write_sources(sources_of(config), toy.folder)
    file.write_text("raise RuntimeError('changed since')\n")
    shown, code, to = export("toy", "--trial", key, "--no-measure")
    assert code == 0, shown
    assert (to / "model.safetensors").exists()


# ---- at the end of a sweep ---------------------------------------------------------------------------------------


@pytest.fixture
def console():
    return Console(file=io.StringIO(), highlight=False)


def test_a_failed_export_is_one_line_and_nothing_else(toy, winner, console):
    (toy.state.trial_folder(winner) / "pruned" / "0.9" / "config.json").write_text("{}")
    assert export_winner(toy.folder, toy.summary(), console) == {}
    _, warning = console.file.getvalue().splitlines()
    assert "the winner could not be exported as ONNX (" in warning
    assert "config.json must be JSON with architecture and model" in warning
    assert f"sweeps export toy --trial {winner} --format onnx" in warning


def test_an_earlier_export_is_used_again(toy, winner, console, monkeypatch):
    folder = exported_folder(toy.folder, winner, 0.9)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"export": {"costs": [{"network": "pruned"}]}}))
    monkeypatch.setattr(module, "run_export", None)
    expected = {"exported": {"trial": winner, "costs": [{"network": "pruned"}]}}
    assert export_winner(toy.folder, toy.summary(), console) == expected
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("reason", ["incomplete", "not kept", "large", "Ctrl-C"])
def test_what_is_not_exported(toy, winner, console, monkeypatch, reason):
    def interrupted(*_):
        raise KeyboardInterrupt

    console.quiet = True  # warnings are printed nevertheless
    monkeypatch.setattr(module, "run_export", interrupted if reason == "Ctrl-C" else None)
    if reason == "not kept":
        shutil.rmtree(toy.state.trial_folder(winner) / "pruned")
    if reason == "large":
        monkeypatch.setattr(module, "LARGEST", 10)
    summary = toy.summary(complete=reason != "incomplete")
    assert export_winner(toy.folder, summary, console) == {}
    assert len(console.file.getvalue().splitlines()) == (reason in ("large", "Ctrl-C"))
