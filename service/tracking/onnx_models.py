"""Exported networks as models in MLflow that anything can serve: the ONNX flavour, with signature and input example."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.records.exported import ONNX_FILE, read_export

__all__ = ["log_onnx_model"]

BESIDE = ("*.json", "model.safetensors")  # so that `load_pruned` and transformers read a downloaded model


def log_onnx_model(client: Any, run: str, name: str, folder: Path, tags: Mapping[str, str]) -> Any:
    """Log an exported network as a model of a run, once however often this is called.

    Nothing is pickled, and the model is loaded without torch.

    Args:
        client: MLflow's client.
        run: The id of the run.
        name: The model's name.
        folder: The exported network.
        tags: Tags of the model.

    Returns:
        MLflow's logged model, or None if the folder has no ONNX file.
    """
    entry = read_export(folder)
    if entry is None or not (folder / ONNX_FILE).is_file():
        return None
    experiment = client.get_run(run).info.experiment_id
    name = re.sub(r"[./:%\"']", "_", name)  # MLflow allows no others
    found = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run}'")
    logged = next((model for model in found if model.name == name), None)
    if logged is None:
        logged = client.create_logged_model(experiment, name=name, source_run_id=run, tags=dict(tags))
    if logged.status != "READY":  # new, or a lost connection ended its upload
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "model"
            save_model(folder, entry, local, run, logged.model_id)
            client.log_model_artifacts(logged.model_id, str(local))
        logged = client.finalize_logged_model(logged.model_id, "READY")
    outputs = client.get_run(run).outputs
    if logged.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else ())]:
        from mlflow.entities import LoggedModelOutput

        client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
    return logged


def save_model(folder: Path, entry: Mapping[str, Any], local: Path, run: str, model_id: str) -> None:
    """Write the files of a model in MLflow's ONNX flavour."""
    import mlflow.onnx  # imports onnx
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema

    versions = entry["software"]
    mlflow.onnx.save_model(
        onnx.load(folder / ONNX_FILE),
        str(local),
        mlflow_model=Model(run_id=run, model_id=model_id),
        signature=ModelSignature(Schema([tensor_of(entry["input"])]), Schema([tensor_of(entry["output"])])),
        input_example=example_of(entry["input"]),
        save_as_external_data=False,
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=[f"onnxruntime=={versions['onnxruntime']}", f"onnx=={versions['onnx']}", "numpy"],
    )
    for file in (file for pattern in BESIDE for file in folder.glob(pattern)):
        shutil.copyfile(file, local / file.name)


def tensor_of(described: Mapping[str, Any]) -> Any:
    import numpy as np
    from mlflow.types import TensorSpec

    shape = tuple(-1 if size is None else size for size in described["shape"])
    return TensorSpec(np.dtype(described["dtype"]), shape, described["name"])


def example_of(described: Mapping[str, Any]) -> Any:
    """Two random inputs."""
    import numpy as np

    shape = [2, *(8 if size is None else size for size in described["shape"][1:])]
    generator = np.random.default_rng(0)
    if "largest" in described:
        return generator.integers(0, described["largest"], shape, dtype=described["dtype"], endpoint=True)
    return generator.standard_normal(shape, dtype=described["dtype"])
