"""The registered winner as users of MLflow load and serve it; run by `make test-export`.

A server takes 20 s to start. `make test` loads the model of a database in the same process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from benchmarks._servers import MlflowServer
from service.records.exported import exported_folder
from service.tracking.connection import default_tracking_uri
from service.tracking.mlflow_writer import MlflowWriter
from tests._digits import SMALL, command
from tests._tracking import runs_of
from tests.service.conftest import ToySweep
from tests.service.tracking._exported import PIXELS, outputs_of, write_exported
from trainables import load_pruned
from trainables.pruning import read_description
from trainables.pruning.exporting import deployable

NAME = "small_resnet-digits-0.9"


@pytest.fixture
def toy(tmp_path):
    """A recorded sweep whose winner is exported."""
    made = ToySweep(tmp_path / "runs" / "toy")
    key = made.trial((0.9, 0.8))
    write_exported(exported_folder(made.folder, key, 0.9))
    made.recorder.summarized(made.summary())
    yield made
    made.recorder.close()


def write(toy, uri):
    events = [event for event, _ in toy.recorder.log.read(toy.recorder.log.path)]
    assert MlflowWriter(toy.folder, uri).write(events) == {}


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


def test_mlflow_models_predict_answers_from_raw_pixels(toy, tmp_path):
    uri = default_tracking_uri(tmp_path / "runs")
    write(toy, uri)
    found = predict(uri, f"models:/{NAME}@best", {"inputs": PIXELS.tolist()}, tmp_path)
    np.testing.assert_array_equal(found["logits"], outputs_of(PIXELS))


def test_a_server_that_stores_the_artifacts_has_the_model_once(toy, tmp_path, monkeypatch):
    """The artifacts travel over HTTP. Only the server has their folder, and the writer gets its address alone."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    server = MlflowServer(tmp_path)
    server.start()
    try:
        client = MlflowClient(server.uri, registry_uri=server.uri)
        for _ in range(2):
            write(toy, server.uri)
            (version,) = client.search_model_versions(f"name = '{NAME}'")
            (logged,) = client.search_logged_models([client.get_experiment_by_name("toy").experiment_id])
            assert (logged.status, version.source) == ("READY", logged.artifact_location)
            assert version.source.startswith("mlflow-artifacts:/")
            (output,) = runs_of(client, toy.folder)[toy.summary()["winner"]["trial"]].outputs.model_outputs
            assert output.model_id == logged.model_id
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@best")
        np.testing.assert_array_equal(model.predict(PIXELS)["logits"], outputs_of(PIXELS))
        there = mlflow.artifacts.download_artifacts(f"models:/{NAME}@best", dst_path=str(tmp_path / "there"))
        assert {"config.json", "model.safetensors", "model.onnx", "MLmodel"} <= set(os.listdir(there))
    finally:
        server.stop()
    assert not (tmp_path / "mlruns").exists()


def test_a_sweep_registers_a_model_that_classifies_digits(tmp_path):
    """A whole sweep as a user runs it; the answers of the registered model are those of the pruned checkpoint."""
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
