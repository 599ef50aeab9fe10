"""Every architecture in every format, and `mlflow models predict` as a user runs it; run by `make test-export`.

These take minutes. `make test` has the same for two architectures, and MLflow's model in this process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sparsity
from service.records.exported import exported_folder
from service.tracking.connection import default_tracking_uri
from service.tracking.mlflow_writer import MlflowWriter
from tests._digits import SMALL, command
from tests.service.conftest import ToySweep
from tests.service.tracking._exported import PIXELS, outputs_of, write_exported
from tests.trainables._tiny_tasks import MODELS, make_tiny_task, tiny_config
from trainables import load_pruned
from trainables.pruning import evaluate_pruned, read_description, save_pruned
from trainables.pruning.exporting import TOLERANCE, deployable, export
from trainables.pruning.exporting.formats.onnx import open_session

# timm/NAME and its like serve the networks of a library, which are not ours to list.
ARCHITECTURES = [
    name for name in sparsity.names("trainables.architectures") if name not in ("smp", "timm", "torchvision")
]
FORMATS = ["safetensors", "torch-export", "onnx"]


def test_every_architecture_is_tried():
    assert set(ARCHITECTURES) == set(MODELS)


@pytest.mark.parametrize("shrink", [False, True], ids=["pruned", "shrunk"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_in_all_formats(tmp_path, architecture, shrink):
    config = tiny_config(architecture)
    task = make_tiny_task(config)
    torch.manual_seed(0)
    network = task.deployed(task.build_model()).eval()
    evaluation = evaluate_pruned(task, network, config, (0.9,), "validation")
    source, to = tmp_path / "0.9", tmp_path / "to"
    save_pruned(source, task, network, evaluation.masks[0.9], {})
    entry = export(source, to, formats=FORMATS, shrink=shrink, multiple_of=1, num_runs=0)
    assert set(entry["formats"]) == set(FORMATS)  # each was run on two batch sizes
    before = deployable(load_pruned(source), read_description(source)["input"])
    after = deployable(load_pruned(to), read_description(to)["input"])
    session = open_session(to / "model.onnx")
    for batch_size in (1, 4, 17):
        x = before.example(batch_size, seed=batch_size)
        with torch.no_grad():
            expected = before(x)
            torch.testing.assert_close(after(x), expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
        (found,) = session.run(["logits"], {before.input_name: x.numpy()})
        assert np.abs(found - expected.numpy()).max() <= TOLERANCE * expected.abs().max()
    for file in ("model.onnx", "model.pt2"):
        content = (to / file).read_bytes()
        assert [word for word in (b"/work", b"/tmp", b"/root", b"site-packages") if word in content] == []


def predict(uri, model, content, folder):
    """What `mlflow models predict` answers for a request in JSON."""
    (folder / "request.json").write_text(json.dumps(content))
    answer = folder / "answer.json"
    words = ["models", "predict", "--model-uri", model, "--env-manager", "local", "--content-type", "json"]
    words += ["--input-path", str(folder / "request.json"), "--output-path", str(answer)]
    environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run([sys.executable, "-m", "mlflow", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(answer.read_text())["predictions"]


def test_mlflow_models_predict_answers_from_raw_pixels(tmp_path):
    toy = ToySweep(tmp_path / "runs" / "toy")
    key = toy.trial((0.9, 0.8))
    write_exported(exported_folder(toy.folder, key, 0.9))
    toy.recorder.summarized(toy.summary())
    uri = default_tracking_uri(tmp_path / "runs")
    MlflowWriter(toy.folder, uri).write([event for event, _ in toy.recorder.log.read(toy.recorder.log.path)])
    found = predict(uri, "models:/small_resnet-digits-0.9@best", {"inputs": PIXELS.tolist()}, tmp_path)
    np.testing.assert_array_equal(found["logits"], outputs_of(PIXELS))


def test_a_sweep_registers_a_model_that_classifies_digits(tmp_path):
    """A whole sweep as a user runs it; the answers of the registered model are those of the pruned checkpoint."""
    from mlflow import MlflowClient
    from sklearn.datasets import load_digits

    assert "--no-export" in SMALL
    words = [word for word in command(tmp_path, "--trials", "1") if word != "--no-export"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The winner's network (trial " in done.stdout
    uri = default_tracking_uri(tmp_path)
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias("small_resnet-digits-0.96", "best")
    checkpoint = client.download_artifacts(version.run_id, "pruned/0.96", str(tmp_path))
    pixels = load_digits().images[:20].astype(np.uint8)[:, None]
    found = predict(uri, "models:/small_resnet-digits-0.96@best", {"inputs": pixels.tolist()}, tmp_path)
    network = deployable(load_pruned(checkpoint), read_description(Path(checkpoint))["input"])
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4 * np.abs(expected).max())
