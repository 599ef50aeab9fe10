import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from service.tracking.ui import page_of, serve_ui

# Stands in for `python -m mlflow ui ... --host HOST --port PORT`.
MLFLOW = """
import http.server, os, sys, time
assert sys.argv[1] == "ui"
host, port = sys.argv[sys.argv.index("--host") + 1], int(sys.argv[sys.argv.index("--port") + 1])
if os.environ.get("BROKEN"):
    sys.exit(int(os.environ["BROKEN"]))
time.sleep(0.5)

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if os.environ.get("NOISY"):
            print("a request", flush=True)
        self.send_response(int(os.environ.get("STATUS", 200)))
        self.end_headers()
        self.wfile.write(os.environ.get("MLFLOW_DISABLE_TELEMETRY", "").encode())

http.server.HTTPServer((host, port), Page).serve_forever()
"""
SERVE = """
import sys
from service.tracking.ui import serve_ui
sys.exit(serve_ui('sqlite:///x', '127.0.0.1', int(sys.argv[1]), as_json='--json' in sys.argv))
"""


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def served(tmp_path, port):
    """A function: starts the UI with this stand-in for MLflow."""
    (tmp_path / "mlflow.py").write_text(MLFLOW)
    started = []

    def start(*flags, **variables):
        kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_DISABLE_TELEMETRY"}
        environment = {**kept, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}", **variables}
        command = [sys.executable, "-c", SERVE, str(port), *flags]
        started.append(subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # instead of killing it, so that it ends its own child
        process.communicate(timeout=20)


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_page_answers_once_it_is_announced_and_ends_with_the_command(served, port, ending, code):
    process = served(http_proxy="http://127.0.0.1:1")
    assert process.stdout.readline() == f"MLflow is starting on http://127.0.0.1:{port} ...\n"
    assert process.stdout.readline() == f"MLflow is on http://127.0.0.1:{port} (press Ctrl-C to end it)\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}") as page:
        assert page.read() == b"true"  # MLFLOW_DISABLE_TELEMETRY, as the server has it
    process.send_signal(ending)
    assert process.wait(20) == code
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_the_addresses_as_json(served, port):
    process = served("--json", NOISY="1")
    assert json.loads(process.stdout.readline()) == {"url": f"http://127.0.0.1:{port}", "sweeps": []}
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == ""  # what MLflow prints is on standard error


def test_a_page_that_refuses_the_host_name_counts_as_answering(served):
    process = served(STATUS="403")
    process.stdout.readline()
    assert process.stdout.readline().startswith("MLflow is on http://")


def test_a_server_that_ends_before_it_answers_is_an_error(served, port):
    process = served(BROKEN="7")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert (
        f"ui: MLflow must answer on http://127.0.0.1:{port} (see its output above), it ended with exit code 7" in error
    )


def test_a_port_in_use_is_refused_before_mlflow_starts(port, monkeypatch, environment_row):
    monkeypatch.setattr(subprocess, "Popen", None)
    with socket.create_server(("127.0.0.1", port)):
        message = rf"port: must be free and allowed \(choose another with --port\), got {port} \(Address al"
        with pytest.raises(ValueError, match=message):
            serve_ui("sqlite:///x", "127.0.0.1", port)
    environment_row(
        "`sweeps ui` on a port that is in use",
        "exits at once with code 2 and a line that names the port and suggests --port",
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])  # a documentation address, a reserved name
def test_a_host_that_is_not_this_machine_is_refused(port, monkeypatch, host):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ValueError, match=r"host: must be an address .*of this machine, got"):
        serve_ui("sqlite:///x", host, port)


def test_a_page_on_all_addresses_is_reached_on_the_loopback_address():
    assert page_of("0.0.0.0", 5000) == "http://127.0.0.1:5000"
    assert page_of("::", 5000) == "http://[::1]:5000"
    assert page_of("localhost", 5000) == "http://localhost:5000"
