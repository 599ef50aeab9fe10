"""The example of docs/your-own-network.md, in a folder outside the repository."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

import trainables
from service.records.best import best
from service.records.state import State
from tests._own_network import commands, files

pytestmark = pytest.mark.sweep


def run(folder, command):
    """Run a command of the page; its output."""
    words = shlex.split(command)
    program = [sys.executable] if words[0] == "python" else [str(Path(sys.executable).with_name(words[0]))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("SPARSITY_SWEEPS_RUNS", None)
    done = subprocess.run(
        [*program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name, text in files().items():
        (folder / name).write_text(text)
    inspect, sweep, *_ = commands()
    return folder, run(folder, inspect), run(folder, sweep)


def test_inspect_lists_the_network(swept):
    _, listed, _ = swept
    assert "network: nets:stripe_net, 5 layers, " in listed
    assert "Linear, which the task does not prune" in listed


def test_the_sweep_finds_the_stripes(swept):
    folder, _, shown = swept
    assert "arms (an optimizer with a regularizer): sgd + none, sgd + penalties:LogSum" in shown
    assert "Best: sgd + " in shown
    assert "Traceback" not in shown
    state = State.read(folder / "runs" / "data.stripes")
    assert {trial.status for trial in state.trials.values()} == {"finished"}
    assert {trial.arm for trial in state.trials.values()} == {"sgd + none", "sgd + penalties:LogSum"}
    rows = best(folder / "runs", architecture="nets:stripe_net", regularizer="penalties:LogSum")
    assert max(row["value"] for row in rows if row["sparsity"] == 0.9) > 0.9  # four classes


def test_the_records_hold_the_source_and_the_checkpoint_loads(swept, monkeypatch):
    folder, _, _ = swept
    sweep = folder / "runs" / "data.stripes"
    state = State.read(sweep)
    trial = next(t for t in state.trials.values() if t.arm == "sgd + penalties:LogSum")
    for name, digest in trial.config["sources"].items():
        file = name.partition(":")[0] + ".py"
        assert (sweep / "code" / digest / file).read_text() == files()[file]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    model = trainables.load_pruned(sweep / "trials" / trial.key / "pruned" / "0.96", "nets:stripe_net")
    weights = [model[0].weight, model[3].weight]
    num = sum(weight.numel() for weight in weights)
    assert sum(int((weight == 0).sum()) for weight in weights) == round(0.96 * num)


def test_the_best_lam_and_the_network_as_onnx(swept):
    folder, *_ = swept
    _, _, best_lam, export = commands()
    shown = run(folder, best_lam)
    assert "penalties:LogSum" in shown
    assert "nets:stripe_net" in shown
    assert "exported to stripes (input images: uint8, any, 1, 8, 8)" in run(folder, export)
    session = onnxruntime.InferenceSession(folder / "stripes" / "model.onnx")
    own: dict = {}
    exec(files()["data.py"], own)
    data = own["stripes"]()
    (logits,) = session.run(["logits"], {"images": data.test_images})
    recorded = json.loads((folder / "stripes" / "config.json").read_text())["test"]["acc"]
    assert (logits.argmax(1) == data.test_labels).mean() == pytest.approx(
        recorded, abs=0.011
    )  # an image may be on edge
    assert recorded > 0.9
