"""The rules of the preflight, on made-up answers; on real hosts it is tried by `make test-cluster`."""

import io
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from ray.exceptions import GetTimeoutError
from rich.console import Console

from service.cluster import preflight
from service.cluster.preflight import Answer, faults_of, fits, room_faults, sees, software, tracking_faults


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=500)


@pytest.fixture
def head(tmp_path, monkeypatch):
    """A head as Ray's launcher leaves it: a function that writes its cluster file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)
    return lambda config: (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))


def node(**resources):
    return {"NodeID": "a", "NodeManagerAddress": "192.0.2.2", "Alive": True, "Resources": resources}


TYPES = {
    "head": {"resources": {"CPU": 0}, "max_workers": 0},
    "gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8},
}


@pytest.mark.parametrize(
    ("resources", "fit"),
    [({"cpu": 4}, True), ({"cpu": 4, "gpu": 0.25}, True), ({"cpu": 5}, False), ({"cpu": 1, "gpu": 2}, False)],
)
def test_a_trial_fits_a_host(resources, fit):
    assert fits(node(CPU=4.0, GPU=1.0), resources) is fit


def test_a_trial_that_no_host_has_room_for_is_said(head):
    assert room_faults([node(CPU=4.0)], {"cpu": 1, "gpu": 0.5}) == [
        "gpus: must fit on one host of the cluster (the largest has 0), got 0.5: try --gpus 0"
    ]
    assert room_faults([node(CPU=4.0)], {"cpu": 8}) == [
        "cpus: must fit on one host of the cluster (the largest has 4), got 8: try --cpus 4 or less"
    ]


def test_a_host_that_is_yet_to_come_counts(head, monkeypatch):
    head({"available_node_types": TYPES})
    assert room_faults([node()], {"cpu": 4, "gpu": 0.25}) == []
    assert len(room_faults([node()], {"cpu": 4, "gpu": 2})) == 1
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")  # only its operator knows
    assert room_faults([node()], {"cpu": 4, "gpu": 2}) == []


def test_a_file_is_seen_once_it_is_there(tmp_path):
    assert not sees(tmp_path / "file", "token", timeout=0)
    threading.Timer(0.3, (tmp_path / "file").write_text, ["token"]).start()
    assert sees(tmp_path / "file", "token", timeout=5)
    assert not sees(tmp_path / "file", "another", timeout=0)


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder of a preflight, and in it what host h wrote."""
    monkeypatch.setattr(preflight, "SIGHT_TIMEOUT", 0.0)
    folder = tmp_path / "runs" / "digits" / "preflight"
    folder.mkdir(parents=True)
    (folder / "h").write_text("token")
    return folder


def faults(answer, shared, num_gpus=0):
    return faults_of(answer, shared, "token", software(), num_gpus)


def test_a_host_like_the_drivers_has_no_fault(shared):
    assert faults(Answer("h", software=software()), shared) == []


def test_storage_that_is_not_shared_is_said_both_ways(shared, tmp_path):
    (unread,) = faults(Answer("h", "does not see the driver's file", software()), shared)
    (unseen,) = faults(Answer("other", "", software()), shared)
    folder = f" in the records' folder {tmp_path / 'runs'}, which every host must be able to read and write: "
    assert unread.startswith("does not see the driver's file" + folder)
    assert unseen.startswith("wrote a file that the driver does not see" + folder)
    for fault in (unread, unseen):
        assert fault.endswith("set SPARSITY_SWEEPS_RUNS or --runs to a folder on it")
        assert "\n" not in fault


def test_other_versions_and_other_code_are_said(shared):
    here = software()
    there = here | {"torch": "1.0", "sparsity-sweeps' code": "0" * 12}
    (fault,) = faults(Answer("h", software=there), shared)
    assert f"torch 1.0 (driver: {here['torch']})" in fault
    assert "sparsity-sweeps' code 000000000000 (driver: " in fault
    assert fault.endswith("run `ray up` again")


def test_a_gpu_that_torch_does_not_see_is_said(shared):
    answer = Answer("h", software=software(), num_gpus=0)
    (fault,) = faults(answer, shared, num_gpus=1)
    assert fault.startswith("torch must see the 1 GPUs that Ray counts there, sees 0")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GetTimeoutError("late"), "did not answer within 120 s"),
        (
            RuntimeError("x\nModuleNotFoundError: No module named 'sweeps'"),
            r"installed there \(ModuleNotFoundError: No",
        ),
        (RuntimeError("first\nlast"), "could not run a task, which failed with RuntimeError: last"),
    ],
)
def test_a_host_that_does_not_answer_is_said(shared, error, message):
    (fault,) = faults(error, shared)
    assert message.replace("\\", "") in fault
    assert "\n" not in fault


# ---- the tracking server -------------------------------------------------------------------------------------------


@pytest.fixture
def server(toy):
    """A server that refuses everything with one status and text; its address."""
    refusal = {}

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(refusal["status"])
            self.end_headers()
            self.wfile.write(refusal["text"].encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    made = HTTPServer(("127.0.0.1", 0), Refuse)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield refusal, f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize(
    ("status", "text", "hint"),
    [
        (401, "You are not authenticated.", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, "Invalid Host header - possible DNS rebinding", "MLFLOW_SERVER_ALLOWED_HOSTS='127.0.0.1,127.0.0.1:*'"),
        (404, "nginx", "correct MLFLOW_TRACKING_URI or --tracking-uri"),
    ],
)
def test_a_server_that_refuses_is_said_with_its_mend(server, toy, console, status, text, hint):
    refusal, uri = server
    refusal |= {"status": status, "text": text}
    (fault,) = tracking_faults(toy.folder, uri, console)
    assert fault.startswith(f"tracking server: {uri} refused this sweep's records with ")
    assert hint in fault
    assert "\n" not in fault


def test_a_server_that_is_away_is_no_fault_but_said(toy, console, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert tracking_faults(toy.folder, "http://127.0.0.1:9", console) == []
    assert (
        "MLflow at http://127.0.0.1:9 does not answer. The records are kept and sent later" in console.file.getvalue()
    )


def test_a_database_file_needs_no_server(toy, console):
    assert tracking_faults(toy.folder, f"sqlite:///{toy.folder}/none.db", console) == []
    assert not os.path.exists(toy.folder / "none.db")
