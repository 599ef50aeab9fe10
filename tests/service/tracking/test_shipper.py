import json
import sqlite3
import threading
import time
from collections import Counter
from uuid import uuid4

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import OperationalError

from benchmarks._servers import LOST, MlflowServer, Proxy
from service.records.events import EventLog
from service.tracking import shipper
from service.tracking.shipper import Shipper, default_tracking_uri, is_refusal, metrics_of
from service.views.tables import summarize
from tests._tracking import assert_as_the_events_say, runs_of


def ship(folder, uri):
    warnings = []
    shipper = Shipper(folder, uri, warn=warnings.append)
    shipper.start()
    return shipper.finish(timeout=60), warnings


def rows(uri, query):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return database.execute(query).fetchall()


def fill(recorder):
    keys = [recorder.trial((0.9, 0.7), lam=lam, evaluations=2) for lam in (1e-6, 1e-5)]
    keys.append(recorder.trial(None, status="diverged", lam=1e-1))
    keys.append(recorder.trial((0.9, 0.6), lam=1e-5, seed=1, phase="confirm", test=(0.8, 0.5)))
    summary = summarize(recorder.records, objective="acc", target_sparsity=0.9, complete=True)
    recorder.records.summarize(summary)
    return keys


def test_mlflow_gets_everything_once_however_often_it_is_shipped(recorder, tmp_path):
    runs = tmp_path / "runs"
    uri = default_tracking_uri(runs)
    keys = fill(recorder)
    folder = recorder.records.folder
    assert ship(folder, uri) == (0, [])

    def state():
        metrics = rows(uri, "select run_uuid, key, step, value from metrics order by 1, 2, 3, 4")
        artifacts = sorted(str(p.relative_to(runs)) for p in (runs / "mlartifacts").rglob("*") if p.is_file())
        versions = rows(uri, "select name, version, run_id from model_versions")
        return rows(uri, "select run_uuid, name, status from runs order by 1"), metrics, artifacts, versions

    recorder.records.summarize(recorder.records.summary | {"complete": False})  # no more trials, but another summary
    ship(folder, uri)
    recorder.records.summarize(recorder.records.summary | {"complete": True})
    ship(folder, uri)
    once = state()
    assert len({row[:3] for row in once[1]}) == len(once[1])
    (folder / "shipped.json").unlink()  # a process killed before it could note how far it had come
    assert ship(folder, uri) == (0, [])
    assert state() == once

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toy")
    found = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"all", *keys}
    parent = found["all"].info.run_id
    assert all(found[key].data.tags["mlflow.parentRunId"] == parent for key in keys)
    assert [found[key].info.status for key in keys] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    assert found[keys[2]].data.tags["reason"] == "it diverged"
    assert found[keys[1]].data.params["opt/rho"] == "0.1"
    metrics = found[keys[3]].data.metrics
    assert (metrics["lam"], metrics["rho"], metrics["log10_lam"]) == (1e-5, 0.1, -5.0)
    assert (metrics["acc_pruned/0.9"], metrics["test_acc_pruned/0.9"]) == (0.6, 0.5)
    assert [m.step for m in client.get_metric_history(found[keys[0]].info.run_id, "loss")] == [1, 2, 3]
    assert {a.path for a in client.list_artifacts(found[keys[0]].info.run_id)} == {
        "curve.png",
        "layers.json",
        "pruned",
        "weights.png",
    }
    winner = client.get_model_version_by_alias("small_resnet-digits-0.9", "best")
    assert (winner.run_id, winner.tags["lam"], winner.tags["rho"]) == (found[keys[3]].info.run_id, "1e-05", "0.1")
    assert found["all"].data.tags["best_run"] == winner.run_id
    assert len({row[1] for row in once[1]}) < 40


def test_a_chunk_that_fails_half_way_is_sent_again_without_doubles(recorder, tmp_path, monkeypatch):
    uri = default_tracking_uri(tmp_path / "runs")
    fill(recorder)
    real, calls = MlflowClient.log_batch, []

    def failing(self, *args, **kwargs):
        calls.append(args)
        if len(calls) in (3, 8):
            raise ConnectionError("the server went away")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", failing)
    warnings = []
    shipper = Shipper(recorder.records.folder, uri, warn=warnings.append)
    shipper.start()
    deadline = time.monotonic() + 60
    while shipper.num_waiting and time.monotonic() < deadline:
        time.sleep(0.2)
    assert shipper.finish(10) == 0
    assert len(warnings) == 1  # one outage, however many tries
    assert len(calls) > 8
    assert "the server went away); the journal keeps everything" in warnings[0]
    found = rows(uri, "select run_uuid, key, step from metrics")
    assert len(found) == len(set(found))
    entries = [json.loads(line) for line in recorder.records.journal.path.read_text().splitlines()]
    expected = sum(1 for e in entries if e["event"] in ("start", "evaluation", "end") for _ in metrics_of(e))
    assert len(found) == expected + 1  # and the parent's own


def test_a_dead_tracking_server_neither_raises_nor_loses_anything(recorder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    fill(recorder)
    left, warnings = ship(recorder.records.folder, "http://127.0.0.1:9")  # the discard port: nobody listens
    assert left == len(recorder.records.journal.path.read_text().splitlines())
    assert len(warnings) == 1
    assert "MLflow at http://127.0.0.1:9 is not reached" in warnings[0]


def test_a_password_in_the_address_is_neither_shown_nor_kept(recorder):
    fill(recorder)
    left, warnings = ship(recorder.records.folder, "http://me:secret@127.0.0.1:9")
    assert left > 0
    assert "http://me:***@127.0.0.1:9" in warnings[0]
    assert "secret" not in "".join(warnings)
    assert "secret" not in "".join(file.read_text() for file in recorder.records.folder.glob("shipped.*"))


# ---- a copy that is not there any more -------------------------------------------------------------------------


def purge(uri):
    """What `mlflow gc` leaves of a deleted experiment: nothing."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"delete from {table}")
        database.execute("delete from experiments where name = 'toy'")


@pytest.mark.parametrize("made_anew", [False, True])
def test_an_emptied_server_gets_everything_anew(recorder, tmp_path, made_anew):
    uri, folder = default_tracking_uri(tmp_path / "runs"), recorder.records.folder
    fill(recorder)
    assert ship(folder, uri) == (0, [])
    client = MlflowClient(uri)
    before = client.get_experiment_by_name("toy").experiment_id
    purge(uri)
    if made_anew:  # by another process, and with the number that it had before
        assert client.create_experiment("toy", artifact_location=(tmp_path / "elsewhere").as_uri()) == before
    assert ship(folder, uri) == (0, [])
    assert_as_the_events_say(client, folder)
    assert ship(folder, uri) == (0, [])
    assert_as_the_events_say(client, folder)


def test_a_deleted_experiment_is_restored_when_the_sweep_goes_on(recorder, tmp_path):
    uri, folder = default_tracking_uri(tmp_path / "runs"), recorder.records.folder
    fill(recorder)
    ship(folder, uri)
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("toy").experiment_id)
    recorder.trial((0.9, 0.8), lam=1e-4)
    assert ship(folder, uri) == (0, [])
    assert_as_the_events_say(client, folder)


def test_a_run_that_was_deleted_stays_so_and_the_others_go_on(recorder, tmp_path):
    uri, folder = default_tracking_uri(tmp_path / "runs"), recorder.records.folder
    records = recorder.records
    gone = recorder.trial(None, status="diverged", lam=1e-1)
    ship(folder, uri)
    client = MlflowClient(uri)
    client.delete_run(runs_of(client, folder)[gone].info.run_id)
    records.journal.append("evaluation", trial=gone, report={"epoch": 9, "loss": 1.0})
    recorder.trial((0.9, 0.8), lam=1e-4)
    left, warnings = ship(folder, uri)
    assert left == len([1 for e, _ in EventLog.read(records.journal.path) if e.get("trial") == gone])
    assert len(warnings) == 1
    assert f"refuses trial {gone}" in warnings[0]
    assert "Current state is deleted" in warnings[0]
    assert_as_the_events_say(client, folder, without=[gone])


def test_a_collapsed_trial_has_a_tag_and_no_metric_of_it(recorder, tmp_path):
    uri, folder = default_tracking_uri(tmp_path / "runs"), recorder.records.folder
    marks = {"collapsed": True, "diagnostics": {"penalty_ratio_max": 12.5}}
    one = recorder.trial((0.1, 0.1), more={"collapsed": 1.0}, marks=marks)
    other = recorder.trial((0.9, 0.8), lam=1e-4, more={"collapsed": 0.0})
    ship(folder, uri)
    runs = runs_of(MlflowClient(uri), folder)
    assert runs[one].data.tags["collapsed"] == "yes"
    assert "collapsed" not in runs[other].data.tags
    assert not [name for name in runs[one].data.metrics if "collapsed" in name]
    assert runs[one].data.metrics["penalty_ratio_max"] == 12.5


def test_a_trial_made_again_is_the_same_run_with_each_point_once(recorder, tmp_path):
    uri, folder = default_tracking_uri(tmp_path / "runs"), recorder.records.folder
    again = recorder.trial(None, status="diverged", lam=1e-1, evaluations=2)
    ship(folder, uri)
    client = MlflowClient(uri)
    first = runs_of(client, folder)[again]
    assert (first.info.status, first.data.tags["reason"]) == ("FAILED", "it diverged")
    assert recorder.records.retry(["diverged"]) == [again]
    ship(folder, uri)
    assert runs_of(client, folder)[again].info.status == "RUNNING"
    assert recorder.trial((0.9, 0.8), lam=1e-1, evaluations=3) == again
    ship(folder, uri)
    last = runs_of(client, folder)[again]
    assert (last.info.run_id, last.info.status, last.data.tags["outcome"]) == (
        first.info.run_id,
        "FINISHED",
        "finished",
    )
    assert not last.data.tags["reason"]
    assert_as_the_events_say(client, folder)
    (folder / "shipped.json").unlink()
    ship(folder, uri)
    assert_as_the_events_say(client, folder)


def test_two_processes_that_ship_the_same_sweep_make_no_doubles(recorder, tmp_path):
    uri, folder = default_tracking_uri(tmp_path / "runs"), recorder.records.folder
    fill(recorder)
    shippers = [Shipper(folder, uri) for _ in range(2)]
    for one in shippers:
        one.start()
    assert [one.finish(60) for one in shippers] == [0, 0]
    assert_as_the_events_say(MlflowClient(uri), folder)


# ---- a server behind a bad line --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(shipper, "PAUSE", 0.01)
    monkeypatch.setattr(shipper, "LONGEST_PAUSE", 0.1)


@pytest.fixture
def named(recorder, tmp_path):
    """A recorder whose sweep has a name of its own on the server that the tests share."""
    made = type(recorder)(tmp_path / "runs" / uuid4().hex)
    yield made
    made.records.close()


def lines_of(folder, key):
    return sum(entry.get("trial") == key for entry, _ in EventLog.read(folder / "events.jsonl"))


def outlast(shipper, timeout=60):
    """Until all is sent, or nothing is but what is refused."""
    deadline = time.monotonic() + timeout
    while shipper.num_waiting and time.monotonic() < deadline:
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "too many of them"})),
        (413, "<html>too many of them</html>"),  # nginx, of a body above its client_max_body_size
    ],
)
def test_a_run_that_is_refused_stops_no_other(named, server, impatient, status, text):
    keys, folder = fill(named), named.records.folder
    refused = keys[0]

    def interfere(method, path, body):
        about_it = path.endswith("log-batch") and b'"value": "1e-06"' in body  # among the parameters: lam
        return (status, text) if about_it else None

    with Proxy(server.port, interfere) as proxy:
        left, warnings = ship(folder, proxy.uri)
        assert left == lines_of(folder, refused)
        assert len(warnings) == 1
        assert f"refuses trial {refused} (" in warnings[0]
        assert "too many of them" in warnings[0]
        client = MlflowClient(proxy.uri)
        assert_as_the_events_say(client, folder, without=[refused])
        assert runs_of(client, folder)["all"].data.tags["best_run"]
        assert ship(folder, proxy.uri)[0] == left  # tried again, and refused again

        proxy.interfere = lambda method, path, body: None
        shipper = Shipper(folder, proxy.uri)
        shipper.start()
        assert shipper.finish(60) == 0
        assert shipper.num_sent == left
        assert_as_the_events_say(client, folder)


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
def test_what_is_a_trials_fault_and_what_the_servers(error, expected):
    assert is_refusal(error) == expected


@pytest.mark.parametrize("status", [401, 503])
def test_a_server_that_lets_nothing_through_refuses_no_run(named, server, impatient, status):
    fill(named)
    folder = named.records.folder

    def interfere(method, path, body):
        return (status, "not now") if path.endswith("log-batch") else None

    with Proxy(server.port, interfere) as proxy:
        left, warnings = ship(folder, proxy.uri)
        assert left == sum(1 for _ in EventLog.read(folder / "events.jsonl"))
        assert len(warnings) == 1
        assert "is not reached" in warnings[0]
        proxy.interfere = lambda method, path, body: None
        assert ship(folder, proxy.uri) == (0, [])
        assert_as_the_events_say(MlflowClient(proxy.uri), folder)


def test_answers_that_are_lost_double_nothing(named, server, impatient):
    """The first answer to each kind of call is lost, and that to each third log-batch: what was asked for was done."""
    fill(named)
    folder = named.records.folder
    calls = Counter()

    def interfere(method, path, body):
        kind = (method, path.rsplit("/", 1)[-1])
        calls[kind] += 1
        return LOST if calls[kind] == 1 or (kind[1] == "log-batch" and calls[kind] % 3 == 0) else None

    with Proxy(server.port, interfere) as proxy:
        shipper = Shipper(folder, proxy.uri, warn=lambda text: None)
        shipper.start()
        outlast(shipper)
        assert shipper.finish(10) == 0
    assert calls["POST", "log-batch"] > 6
    assert_as_the_events_say(MlflowClient(server.uri), folder)


def test_a_run_that_a_lost_answer_doubled_is_one_again(named, server, impatient):
    """A client's own retry, or a proxy's, makes the run twice, and nobody is told."""
    fill(named)
    folder = named.records.folder

    def interfere(method, path, body):
        if path.endswith("runs/create"):
            tags = {tag["key"]: tag["value"] for tag in json.loads(body)["tags"]}
            client.create_run(json.loads(body)["experiment_id"], tags=tags)
            return 503, "the first answer was lost"
        return None

    client = MlflowClient(server.uri)
    with Proxy(server.port, interfere) as proxy:
        ship(folder, proxy.uri)
        proxy.interfere = lambda method, path, body: None
        experiment = client.get_experiment_by_name(folder.name).experiment_id
        parent = runs_of(client, folder)["all"]
        client.create_run(experiment, tags=parent.data.tags)
        assert ship(folder, proxy.uri) == (0, [])
    assert_as_the_events_say(client, folder)
    deleted = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    assert [run.data.metrics for run in deleted] == [{}]


def test_the_records_go_on_while_the_server_holds_a_call(named, server, impatient):
    """If anything waited for the server, this would never end."""
    arrived, release = threading.Event(), threading.Event()

    def interfere(method, path, body):
        arrived.set()
        release.wait(60)
        return None

    with Proxy(server.port, interfere) as proxy:
        shipper = Shipper(named.records.folder, proxy.uri)
        shipper.start()
        assert arrived.wait(30)
        fill(named)
        assert shipper.num_waiting == sum(1 for _ in EventLog.read(named.records.journal.path))
        release.set()
        assert shipper.finish(60) == 0
    assert_as_the_events_say(MlflowClient(server.uri), named.records.folder)


# ---- places -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "a?b=c&d", "a#b", "a%20b", "50% é"])
def test_the_database_is_in_the_runs_folder_whatever_its_name_is(tmp_path, monkeypatch, name):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs of" / name
    runs.mkdir(parents=True)
    client = MlflowClient(default_tracking_uri(runs), registry_uri=default_tracking_uri(runs))
    client.create_experiment("toy")
    with sqlite3.connect(runs / "mlflow.db") as database:
        assert database.execute("select count(*) from experiments where name = 'toy'").fetchone() == (1,)
    assert [path.name for path in (tmp_path / "runs of").iterdir()] == [name]  # and nothing beside it
