import json
import sqlite3
import threading
import time
from collections import Counter
from uuid import uuid4

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from benchmarks._servers import LOST, MlflowServer, Proxy
from service.records.events import EventLog
from service.tracking import shipper
from service.tracking.metrics import metrics_of
from service.tracking.saved_views import TAG
from service.tracking.shipper import Shipper
from tests._tracking import assert_as_the_events_say, runs_of


def ship(folder, uri):
    warnings = []
    shipper = Shipper(folder, uri, warn=warnings.append)
    shipper.start()
    return shipper.finish(timeout=60), warnings


def rows(uri, query):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return database.execute(query).fetchall()


def fill(toy):
    keys = [toy.trial((0.9, 0.7), lam=lam, evaluations=2) for lam in (1e-6, 1e-5)]
    keys.append(toy.trial(None, status="diverged", lam=1e-1))
    keys.append(toy.trial((0.9, 0.6), lam=1e-5, seed=1, phase="confirm", test=(0.8, 0.5)))
    toy.recorder.summarized(toy.summary())
    return keys


def test_mlflow_has_everything_once_however_often_it_is_sent(toy, tmp_path, uri):
    runs = tmp_path / "runs"
    keys = fill(toy)
    folder = toy.folder
    assert ship(folder, uri) == (0, [])

    def state():
        metrics = rows(uri, "select run_uuid, key, step, value from metrics order by 1, 2, 3, 4")
        artifacts = sorted(str(p.relative_to(runs)) for p in (runs / "mlartifacts").rglob("*") if p.is_file())
        versions = rows(uri, "select name, version, run_id from model_versions")
        found = rows(uri, "select run_uuid, name, status from runs order by 1")
        tags = rows(uri, "select key, value from experiment_tags order by 1")
        inputs = rows(uri, "select source_id, destination_id from inputs order by 1, 2")
        return found, metrics, artifacts, versions, tags, inputs

    toy.recorder.summarized(toy.state.summary | {"complete": False})  # the same trials, another summary
    ship(folder, uri)
    toy.recorder.summarized(toy.state.summary | {"complete": True})
    ship(folder, uri)
    once = state()
    assert len({row[:3] for row in once[1]}) == len(once[1])
    (folder / "shipped.json").unlink()  # as if the process had been killed before writing it
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
    assert found[keys[1]].info.run_name == "sam wcr lam=1e-05 rho=0.1 lr=0.1 seed=0"
    assert [(one.dataset.name, one.dataset.digest) for one in found[keys[1]].inputs.dataset_inputs] == [
        ("digits", "toy")
    ]
    assert found[keys[1]].data.tags["mlflow.note.content"].startswith("small_resnet on digits, sam + wcr: 3 epochs")
    saved = client.get_experiment(experiment.experiment_id).tags
    assert {name for name in saved if name.startswith(TAG)} == {TAG + key for key in ("trials", "arms", "confirmed")}
    assert saved["mlflow.note.content"].startswith("Best: sam + wcr, lam 1e-05, rho 0.1")
    files = [{a.path for a in client.list_artifacts(found[key].info.run_id)} for key in keys]
    assert files[0] == files[1] == {"layers.json", "pruned"}
    assert files[3] == {"layers.json", "pruned", "curve.png", "weights.png"}  # the best of its arm
    winner = client.get_model_version_by_alias("small_resnet-digits-0.9", "best")
    assert (winner.run_id, winner.tags["lam"], winner.tags["rho"]) == (found[keys[3]].info.run_id, "1e-05", "0.1")
    assert found["all"].data.tags["best_run"] == winner.run_id
    assert len({row[1] for row in once[1]}) < 40


def test_a_chunk_that_fails_half_way_is_sent_again_without_duplicates(toy, uri, monkeypatch):
    fill(toy)
    real, calls = MlflowClient.log_batch, []

    def failing(self, *args, **kwargs):
        calls.append(args)
        if len(calls) in (3, 8):
            raise ConnectionError("the server went away")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", failing)
    warnings = []
    shipper = Shipper(toy.folder, uri, warn=warnings.append)
    shipper.start()
    deadline = time.monotonic() + 60
    while shipper.num_waiting and time.monotonic() < deadline:
        time.sleep(0.2)
    assert shipper.finish(10) == 0
    assert len(warnings) == 1  # one outage, however many tries
    assert len(calls) > 8
    assert "the server went away). The event log keeps everything" in warnings[0]
    found = rows(uri, "select run_uuid, key, step from metrics")
    assert len(found) == len(set(found))
    entries = [json.loads(line) for line in toy.recorder.log.path.read_text().splitlines()]
    expected = sum(1 for e in entries if e["event"] in ("start", "evaluation", "end") for _ in metrics_of(e))
    assert len(found) == expected + 1  # and the parent's own


def test_events_of_a_running_sweep_are_sent_together(toy, uri, monkeypatch):
    monkeypatch.setattr(shipper, "INTERVAL", 3600.0)
    one = Shipper(toy.folder, uri)
    one.start()
    outlast(one)
    toy.trial((0.9, 0.8))
    time.sleep(3 * shipper.PAUSE)
    assert one.num_waiting == 3
    assert one.finish(60) == 0  # the end does not wait for the interval


def test_a_dead_tracking_server_neither_raises_nor_loses_anything(toy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    fill(toy)
    left, warnings = ship(toy.folder, "http://127.0.0.1:9")  # the discard port, on which nothing listens
    assert left == len(toy.recorder.log.path.read_text().splitlines())
    assert len(warnings) == 1
    assert "MLflow at http://127.0.0.1:9 cannot be reached" in warnings[0]


def test_a_password_in_the_address_is_neither_shown_nor_kept(toy):
    fill(toy)
    left, warnings = ship(toy.folder, "http://me:secret@127.0.0.1:9")
    assert left > 0
    assert "http://me:***@127.0.0.1:9" in warnings[0]
    assert "secret" not in "".join(warnings)
    assert "secret" not in "".join(file.read_text() for file in toy.folder.glob("shipped.*"))


# ---- records that were deleted in MLflow -----------------------------------------------------------------------


def purge(uri):
    """Delete the sweep as `mlflow gc` does."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"delete from {table}")
        database.execute("delete from experiments where name = 'toy'")


@pytest.mark.parametrize("created_again", [False, True])
def test_an_emptied_server_receives_everything_again(toy, tmp_path, uri, created_again):
    folder = toy.folder
    fill(toy)
    assert ship(folder, uri) == (0, [])
    client = MlflowClient(uri)
    before = client.get_experiment_by_name("toy").experiment_id
    purge(uri)
    if created_again:  # by another process, with the same id
        assert client.create_experiment("toy", artifact_location=(tmp_path / "elsewhere").as_uri()) == before
    assert ship(folder, uri) == (0, [])
    assert_as_the_events_say(client, folder)
    assert ship(folder, uri) == (0, [])
    assert_as_the_events_say(client, folder)


def test_a_deleted_experiment_is_restored_when_the_sweep_continues(toy, uri):
    folder = toy.folder
    fill(toy)
    ship(folder, uri)
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("toy").experiment_id)
    toy.trial((0.9, 0.8), lam=1e-4)
    assert ship(folder, uri) == (0, [])
    assert_as_the_events_say(client, folder)


def test_a_deleted_run_stays_deleted_and_the_others_are_sent(toy, uri):
    folder = toy.folder
    records = toy.recorder
    gone = toy.trial(None, status="diverged", lam=1e-1)
    ship(folder, uri)
    client = MlflowClient(uri)
    client.delete_run(runs_of(client, folder)[gone].info.run_id)
    records.log.append("evaluation", trial=gone, report={"epoch": 9, "loss": 1.0})
    toy.trial((0.9, 0.8), lam=1e-4)
    left, warnings = ship(folder, uri)
    assert left == len([1 for e, _ in EventLog.read(records.log.path) if e.get("trial") == gone])
    assert len(warnings) == 1
    assert f"refuses trial {gone}" in warnings[0]
    assert "Current state is deleted" in warnings[0]
    assert_as_the_events_say(client, folder, without=[gone])


def test_two_shippers_of_the_same_sweep_make_no_duplicates(toy, uri):
    folder = toy.folder
    fill(toy)
    shippers = [Shipper(folder, uri) for _ in range(2)]
    for one in shippers:
        one.start()
    assert [one.finish(60) for one in shippers] == [0, 0]
    assert_as_the_events_say(MlflowClient(uri), folder)


# ---- a server behind an unreliable connection ------------------------------------------------------------------


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
def named(toy, tmp_path):
    """A sweep with a name of its own on the server that the tests share."""
    made = type(toy)(tmp_path / "runs" / uuid4().hex)
    yield made
    made.recorder.close()


def lines_of(folder, key):
    return sum(entry.get("trial") == key for entry, _ in EventLog.read(folder / "events.jsonl"))


def outlast(shipper, timeout=60):
    """Wait until everything is sent."""
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
def test_a_refused_run_does_not_stop_the_others(named, server, impatient, status, text):
    keys, folder = fill(named), named.folder
    refused = keys[0]

    def interfere(method, path, body):
        about_it = path.endswith("log-batch") and b'"value": "1e-06"' in body  # its lam, among the parameters
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


@pytest.mark.parametrize("status", [401, 503])
def test_a_server_that_answers_nothing_else_refuses_no_run(named, server, impatient, status):
    fill(named)
    folder = named.folder

    def interfere(method, path, body):
        return (status, "not now") if path.endswith("log-batch") else None

    with Proxy(server.port, interfere) as proxy:
        left, warnings = ship(folder, proxy.uri)
        assert left == sum(1 for _ in EventLog.read(folder / "events.jsonl"))
        assert len(warnings) == 1
        assert "cannot be reached" in warnings[0]
        proxy.interfere = lambda method, path, body: None
        assert ship(folder, proxy.uri) == (0, [])
        assert_as_the_events_say(MlflowClient(proxy.uri), folder)


def test_lost_responses_make_no_duplicates(named, server, impatient):
    """The first response to each kind of call is lost, and every third to log-batch; the calls were carried out."""
    fill(named)
    folder = named.folder
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


def test_a_run_that_a_lost_response_duplicated_is_deleted(named, server, impatient):
    """A retry by the client or a proxy creates the run twice without anyone noticing."""
    fill(named)
    folder = named.folder

    def interfere(method, path, body):
        if path.endswith("runs/create"):
            tags = {tag["key"]: tag["value"] for tag in json.loads(body)["tags"]}
            client.create_run(json.loads(body)["experiment_id"], tags=tags)
            return 503, "the first response was lost"
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


def test_recording_does_not_wait_for_a_server_that_does_not_answer(named, server, impatient):
    """This would never end if recording waited for the server."""
    arrived, release = threading.Event(), threading.Event()

    def interfere(method, path, body):
        arrived.set()
        release.wait(60)
        return None

    with Proxy(server.port, interfere) as proxy:
        shipper = Shipper(named.folder, proxy.uri)
        shipper.start()
        assert arrived.wait(30)
        fill(named)
        assert shipper.num_waiting == sum(1 for _ in EventLog.read(named.recorder.log.path))
        release.set()
        assert shipper.finish(60) == 0
    assert_as_the_events_say(MlflowClient(server.uri), named.folder)
