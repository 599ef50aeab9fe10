import sqlite3

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import OperationalError

from service.tracking.connection import default_tracking_uri, first_line, is_refusal


def answer(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} for url", response=response)


def quoted(status):
    return MlflowException(
        f"API request to endpoint /api failed with error code {status} != 200. Response body: '<html>'"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        *((RestException({"error_code": code}), True) for code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")),
        *((RestException({"error_code": code}), False) for code in ("UNAUTHENTICATED", "PERMISSION_DENIED")),
        *((RestException({"error_code": code}), False) for code in ("RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND")),
        *((RestException({"error_code": code}), False) for code in ("REQUEST_LIMIT_EXCEEDED", "INTERNAL_ERROR")),
        *((make(status), True) for make in (answer, quoted) for status in (400, 413, 422)),
        *((make(status), False) for make in (answer, quoted) for status in (401, 403, 404, 408, 429, 500, 502, 503)),
        (requests.ConnectionError("refused"), False),
        (requests.JSONDecodeError("no JSON", "<html>", 0), False),
        (TimeoutError(), False),
        (OSError(28, "No space left on device"), False),
        (OperationalError("insert", {}, Exception("database is locked")), False),
        (ValueError("a figure that cannot be drawn"), True),
    ],
    ids=str,
)
def test_a_refusal_is_the_fault_of_what_was_sent(error, expected):
    assert is_refusal(error) == expected


def test_the_first_line_of_an_error_has_no_password():
    assert first_line(OSError("no answer from http://me:secret@host\nsee above")) == "no answer from http://me:***@host"
    assert first_line(TimeoutError()) == "TimeoutError"


def test_the_environment_variable_comes_before_the_database(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert default_tracking_uri(tmp_path) == "http://host:5000"


@pytest.mark.parametrize("name", ["a b", "a?b=c&d", "a#b", "a%20b", "50% é"])
def test_the_database_is_in_the_folder_of_runs_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs of" / name
    runs.mkdir(parents=True)
    client = MlflowClient(default_tracking_uri(runs), registry_uri=default_tracking_uri(runs))
    client.create_experiment("toy")
    with sqlite3.connect(runs / "mlflow.db") as database:
        assert database.execute("select count(*) from experiments where name = 'toy'").fetchone() == (1,)
    assert [path.name for path in (tmp_path / "runs of").iterdir()] == [name]  # and nothing beside it
