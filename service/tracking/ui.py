"""Serving MLflow's pages from a child process that ends with this one."""

import errno
import json
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

from service.tracking.connection import NO_TELEMETRY
from service.tracking.saved_views import experiments_with_views, link

__all__ = ["serve_ui"]

START_TIMEOUT = 600.0  # seconds: importing MLflow takes minutes on a machine that is busy with trials
END_TIMEOUT = 10.0  # seconds
MOST_SWEEPS = 10  # whose pages are listed


def serve_ui(tracking_uri: str, host: str, port: int, *, as_json: bool = False) -> int:
    """Serve MLflow's pages until Ctrl-C, a termination signal, or the end of MLflow.

    Args:
        tracking_uri: The tracking database or server.
        host: Address to listen on.
        port: Port to listen on.
        as_json: Whether to print one line of JSON with the addresses, once they answer, instead of lines for people.

    Returns:
        The exit code: 0 after Ctrl-C, else MLflow's own or 1.

    Raises:
        ValueError: If it is not possible to listen on this host and port, or MLflow does not start.
    """
    check_free(host, port)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri]
    command += ["--host", host, "--port", str(port)]
    name, value = NO_TELEMETRY
    environment = {name: value, **os.environ}
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, leave)
    # MLflow starts further processes. A session of their own lets `end` signal all of them.
    output = sys.stderr if as_json else None  # None: the same as this process
    with subprocess.Popen(command, env=environment, start_new_session=True, stdout=output) as server:
        try:
            url = page_of(host, port)
            print(f"MLflow is starting on {url} ...", flush=True, file=output)
            if not answers(url, server):
                code = server.poll()
                why = f"did not within {START_TIMEOUT:g} s" if code is None else f"ended with exit code {code}"
                raise ValueError(f"ui: MLflow must answer on {url} (see its output above), it {why}")
            pages = [{"name": name, "url": f"{url}{address}"} for name, address in pages_of_sweeps(url)]
            if as_json:
                print(json.dumps({"url": url, "sweeps": pages}), flush=True)
            else:
                print(f"MLflow is on {url} (press Ctrl-C to end it)", flush=True)
                for page in pages:
                    print(f"    {page['name']}: {page['url']}", flush=True)
            return server.wait() or 1  # it ended without being asked to
        except KeyboardInterrupt:
            return 0
        finally:
            end(server)


def check_free(host: str, port: int) -> None:
    """Raise ValueError, with what to change, if it is not possible to listen on this host and port."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ValueError(
            f"host: must be an address or a name of this machine, got {host!r} ({error.strerror})"
        ) from None
    for family, kind, protocol, _, address in found[:1]:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections that have just ended
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ValueError(f"host: must be an address of this machine, got {host!r}") from None
                raise ValueError(
                    f"port: must be free and allowed (choose another with --port), got {port} "
                    f"({os.strerror(error.errno or 0)})"
                ) from None


def page_of(host: str, port: int) -> str:
    """The address of the page for a browser on this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def answers(url: str, server: subprocess.Popen) -> bool:
    """Wait for the page; False if the server ends or does not answer within START_TIMEOUT."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would look on its own machine
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(url, timeout=5):
                return True
        except urllib.error.HTTPError:  # it answers, but refuses this host name
            return True
        except OSError:
            time.sleep(0.2)
    return False


def pages_of_sweeps(url: str) -> list[tuple[str, str]]:
    """The name of each sweep with the address of the page that compares its trials, the newest first.

    Empty if the server refuses to say.
    """
    body = json.dumps({"max_results": MOST_SWEEPS, "order_by": ["last_update_time DESC"]}).encode()
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/experiments/search", body, {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            return [(name, link(key)) for name, key in experiments_with_views(json.load(answer))]
    except (OSError, ValueError):  # the pages work without it
        return []


def end(server: subprocess.Popen) -> None:
    """End the server and every process that it started."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, ending)
            server.wait(END_TIMEOUT)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
