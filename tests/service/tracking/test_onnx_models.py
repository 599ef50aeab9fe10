import os
import sqlite3
import subprocess
import sys

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from service.records.exported import exported_folder
from service.tracking.mlflow_writer import MlflowWriter
from tests._tracking import runs_of
from tests.service.tracking._exported import COSTS, PIXELS, outputs_of, write_exported

NAME = "small_resnet-digits-0.9"


@pytest.fixture
def winner(toy):
    """The key of the winner of a sweep whose network is exported and whose summary is recorded."""
    toy.trial((0.9, 0.7))
    key = toy.trial((0.9, 0.6), seed=1, phase="confirm", test=(0.8, 0.5))
    write_exported(exported_folder(toy.folder, key, 0.9))
    toy.recorder.summarized(toy.summary() | {"exported": {"trial": key, "costs": COSTS}})
    return key


@pytest.fixture
def addressed(uri, monkeypatch):
    """MLflow's global address, which `models:/` needs."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


def write(toy, uri):
    writer = MlflowWriter(toy.folder, uri)
    assert writer.write([event for event, _ in toy.recorder.log.read(toy.recorder.log.path)]) == {}


def counted(uri):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        query = "select (select count(*) from logged_models), (select count(*) from model_versions)"
        return database.execute(query).fetchone()


def test_the_registered_winner_answers_raw_pixels_without_pickles(toy, winner, uri, addressed):
    names, active = [], True
    sys.addaudithook(lambda event, args: names.append(args) if active and event == "pickle.find_class" else None)
    write(toy, uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@best")
    np.testing.assert_array_equal(model.predict(PIXELS)["logits"], outputs_of(PIXELS))
    active = False
    assert names == []
    assert model.metadata.get_input_schema().inputs[0].shape == (-1, 1, 2, 2)
    assert model.metadata.get_output_schema().inputs[0].name == "logits"
    example = model.input_example
    pixels = np.asarray(example["images"], np.uint8)
    assert pixels.shape == (2, 1, 2, 2)
    np.testing.assert_array_equal(model.predict(example)["logits"], outputs_of(pixels))
    for wrong in (PIXELS.astype(np.float32), PIXELS[:, :, :1]):
        with pytest.raises(MlflowException, match="Failed to enforce schema"):
            model.predict(wrong)


def test_it_can_be_downloaded_for_load_pruned(toy, winner, uri, addressed, tmp_path):
    write(toy, uri)
    folder = mlflow.artifacts.download_artifacts(f"models:/{NAME}@best", dst_path=str(tmp_path / "there"))
    assert {"config.json", "model.safetensors", "model.onnx", "MLmodel"} <= set(os.listdir(folder))
    assert not any(file.endswith((".pkl", ".pickle")) for file in os.listdir(folder))
    with open(os.path.join(folder, "requirements.txt")) as file:
        assert "torch" not in file.read()


def test_shipping_twice_registers_once(toy, winner, uri):
    write(toy, uri)
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias(NAME, "best")
    assert counted(uri) == (1, 1)
    write(toy, uri)
    assert counted(uri) == (1, 1)
    assert client.get_model_version_by_alias(NAME, "best").version == version.version
    runs = runs_of(client, toy.folder)
    assert version.run_id == runs[winner].info.run_id
    (output,) = runs[winner].outputs.model_outputs
    assert client.get_logged_model(output.model_id).artifact_location == version.source


def test_an_upload_that_was_interrupted_is_finished(toy, winner, uri, monkeypatch):
    real = MlflowClient.log_model_artifacts

    def fails(*args, **kwargs):
        raise ConnectionError("the server went away")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", fails)
    with pytest.raises(ConnectionError):
        write(toy, uri)
    assert counted(uri) == (1, 0)
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", real)
    write(toy, uri)
    assert counted(uri) == (1, 1)
    client = MlflowClient(uri)
    model = client.search_logged_models([client.get_experiment_by_name("toy").experiment_id])[0]
    assert (model.status, model.artifact_location) == ("READY", client.get_model_version_by_alias(NAME, "best").source)


def test_a_version_of_an_earlier_release_gives_the_alias_to_the_model(toy, winner, uri):
    folder = exported_folder(toy.folder, winner, 0.9)
    folder.rename(folder.with_name("hidden"))
    write(toy, uri)
    client = MlflowClient(uri)
    assert client.get_model_version_by_alias(NAME, "best").source.endswith("/pruned/0.9")
    folder.with_name("hidden").rename(folder)
    write(toy, uri)
    version = client.get_model_version_by_alias(NAME, "best")
    assert (version.version, counted(uri)) == (2, (1, 2))


def test_a_server_without_logged_models_gets_the_checkpoint(toy, winner, uri, monkeypatch):
    def unknown(*args, **kwargs):
        raise MlflowException.invalid_parameter_value("no such endpoint")

    monkeypatch.setattr(MlflowClient, "create_logged_model", unknown)
    write(toy, uri)
    version = MlflowClient(uri).get_model_version_by_alias(NAME, "best")
    assert version.source.endswith("/pruned/0.9")


def test_sizes_and_latencies_are_metrics_of_the_parent_run(toy, winner, uri):
    for _ in range(2):
        write(toy, uri)
        metrics = runs_of(MlflowClient(uri), toy.folder)["all"].data.metrics
        assert (metrics["dense/macs"], metrics["shrunk/macs"], metrics["pruned/onnx_ms_1"]) == (12, 8, 0.1)
        assert "dense/onnx_ms_64" not in metrics  # a run took too long
        assert len(metrics) < 40


@pytest.mark.slow
def test_mlflow_loads_the_model_without_torch(toy, winner, uri):
    write(toy, uri)
    code = f"""
import sys, mlflow, numpy as np
mlflow.set_tracking_uri({uri!r}); mlflow.set_registry_uri({uri!r})
print(mlflow.pyfunc.load_model("models:/{NAME}@best").predict(np.zeros((1, 1, 2, 2), np.uint8)))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
