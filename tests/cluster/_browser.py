"""What headless Chromium shows of a page: python _browser.py URL TEXT [PICTURE]

Prints the page's text once TEXT is in it, waiting at most two minutes; writes a screenshot to PICTURE. The user and
password for the page are taken from the environment, MLFLOW_TRACKING_USERNAME and _PASSWORD, and sent as a header.
Speaks DevTools' protocol through two pipes (--remote-debugging-pipe): it needs nothing beside Chromium, and no port.
"""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT = 120.0


class Chromium:
    """A page of a headless browser; a context manager that leaves no process and no profile."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()

        def as_fd_3_and_4():
            ours, theirs = os.dup(to_browser), os.dup(from_browser)
            os.dup2(ours, 3)
            os.dup2(theirs, 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "--window-size=1400,1000"],
            preexec_fn=as_fd_3_and_4,
            pass_fds=(3, 4),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method, **params):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                more = os.read(self._read, 1 << 16)
                if not more:
                    raise RuntimeError("Chromium has ended")
                self._buffer += more
            line, _, self._buffer = self._buffer.partition(b"\0")
            reply = json.loads(line)
            if reply.get("id") == number:
                return reply["result"]

    def text(self):
        return self.call("Runtime.evaluate", expression="document.body.innerText")["result"].get("value", "")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


def main(url, text, picture=None):
    user, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    signal.alarm(int(TIMEOUT) + 60)  # whatever hangs
    with Chromium() as page:
        page.call("Network.enable")
        page.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {token}"})
        page.call("Page.navigate", url=url)
        deadline = time.monotonic() + TIMEOUT
        while text not in (shown := page.text()) and time.monotonic() < deadline:
            time.sleep(1)
        if picture:
            Path(picture).write_bytes(base64.b64decode(page.call("Page.captureScreenshot")["data"]))
        print(shown)
    return 0 if text in shown else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
