import shutil

import pytest
from mlflow import MlflowClient

from service.tracking.connection import default_tracking_uri


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """An MLflow database with its tables. Creating them takes seconds, so the tests of this folder copy the file."""
    runs = tmp_path_factory.mktemp("mlflow")
    MlflowClient(default_tracking_uri(runs)).search_experiments()
    return runs / "mlflow.db"


@pytest.fixture
def uri(empty_database, tmp_path):
    """The address of an empty database in tmp_path / "runs"."""
    runs = tmp_path / "runs"
    runs.mkdir(exist_ok=True)
    shutil.copy(empty_database, runs)
    return default_tracking_uri(runs)
