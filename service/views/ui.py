"""MLflow's UI in a process of its own, which ends with this one."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import FrameType
from typing import NoReturn

from service.tracking.shipper import NO_TELEMETRY

__all__ = ["serve_ui"]

PATIENCE = 600.0  # seconds for the page to answer: importing MLflow takes minutes on a machine that is busy with trials
END_PATIENCE = 10.0  # seconds for MLflow to end


def serve_ui(tracking_uri: str, host: str, port: int) -> int:
    """Serve until Ctrl-C or until MLflow ends; the exit code. ValueError if it cannot listen on this host and port."""
    check_free(host, port)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri]
    command += ["--host", host, "--port", str(port)]
    name, value = NO_TELEMETRY
    environment = {name: value, **os.environ}
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, leave)
    # MLflow starts processes of its own: in a session of their own they all get the signal that ends them.
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            url = page_of(host, port)
            print(f"MLflow is starting on {url} ...", flush=True)
            if not answers(url, server):
                code = server.poll()
                why = f"does not answer after {PATIENCE:g} s" if code is None else f"ended, exit code {code}"
                raise ValueError(f"ui: MLflow must answer on {url}, it {why}; what it printed says why")
            print(f"MLflow on {url} (Ctrl-C ends it)", flush=True)
            return server.wait() or 1  # nobody asked it to end
        except KeyboardInterrupt:
            return 0
        finally:
            end(server)


def check_free(host: str, port: int) -> None:
    """ValueError if nothing can listen there, for a reason that a user can change."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ValueError(
            f"host: must be an address or a name of this machine, got {host!r} ({error.strerror})"
        ) from None
    for family, kind, protocol, _, address in found[:1]:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just ended is no obstacle
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ValueError(f"host: must be an address of this machine, got {host!r}") from None
                raise ValueError(
                    f"port: must be one that can be listened on (choose another with --port), got {port} "
                    f"({os.strerror(error.errno or 0)})"
                ) from None


def page_of(host: str, port: int) -> str:
    """The page's address, for a browser on this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def answers(url: str, server: subprocess.Popen) -> bool:
    """Wait until the page is there. False if the server ends before, or takes longer than PATIENCE."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy reaches this machine for us
    deadline = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(url, timeout=5):
                return True
        except urllib.error.HTTPError:  # it is there, and refuses this name of the host
            return True
        except OSError:
            time.sleep(0.2)
    return False


def end(server: subprocess.Popen) -> None:
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, ending)
            server.wait(END_PATIENCE)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
