"""Servers of one's own on 127.0.0.1, for benchmarks and for tests of what happens when they fail."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["LOST", "MlflowServer", "Proxy", "postgresql"]

LOST = (0, "")  # of a Proxy: the request arrives, its answer does not


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def wait_until_open(port: int, process: subprocess.Popen, log: Path, timeout: float = 180.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RuntimeError(f"{process.args}: does not answer on port {port}:\n{log.read_text()[-2000:]}")


class MlflowServer:
    """`mlflow server` on a database, by default SQLite in `folder`. Started again, it has the same port and records."""

    def __init__(self, folder: Path, database: str = ""):
        self.folder, self.database = folder, database or f"sqlite:///{folder / 'server.db'}"
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        options = {
            "--backend-store-uri": self.database,
            "--artifacts-destination": str(self.folder / "artifacts"),
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
        }
        command = [sys.executable, "-m", "mlflow", "server", *(part for option in options.items() for part in option)]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self.folder / "server.log"
        with log.open("ab") as output:  # a session of its own: it stops with its workers
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        wait_until_open(self.port, self._process, log)

    def stop(self) -> None:
        """At once, as a host that loses its power: nothing that was under way is answered."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def postgresql() -> Iterator[str | None]:
    """A database of its own in a temporary folder: its URI, or None where PostgreSQL is not installed."""
    initdb, postgres = shutil.which("initdb"), shutil.which("postgres")
    if not (initdb and postgres):
        yield None
        return
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        folder, log, port = Path(name), Path(name) / "log", free_port()
        if user:
            shutil.chown(folder, user)
        quiet = {"stdout": subprocess.DEVNULL, "user": user, "cwd": name}
        subprocess.run([initdb, "--pgdata", f"{name}/data", "--username=mlflow", "--auth=trust"], check=True, **quiet)
        settings = ["-D", f"{name}/data", "-p", str(port), "-k", name, "-c", "listen_addresses=127.0.0.1"]
        with log.open("wb") as output:
            process = subprocess.Popen([postgres, *settings], stderr=output, **quiet)
        try:
            wait_until_open(port, process, log)
            yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # "fast": connections are cut, what was committed stays
            process.wait(timeout=60)


class Proxy(ThreadingHTTPServer):
    """Stands before a server. What `interfere(method, path, body)` returns is answered instead of passing a request on:
    (status, text), or None to pass it on, or `LOST`."""

    daemon_threads = True

    def __init__(self, port: int, interfere: Callable[[str, str, bytes], tuple[int, str] | None]):
        super().__init__(("127.0.0.1", 0), ProxyHandler)
        self.behind, self.interfere = port, interfere
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class ProxyHandler(BaseHTTPRequestHandler):
    server: Proxy

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.server.interfere(self.command, self.path, body)
        if answer is None or answer == LOST:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            status, kind, content = response.status, response.getheader("Content-Type", ""), response.read()
            connection.close()
            if answer == LOST:
                self.close_connection = True
                return
        else:
            status, kind, content = answer[0], "text/html", answer[1].encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

    def log_message(self, *args: object) -> None:
        pass
