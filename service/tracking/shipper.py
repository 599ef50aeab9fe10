"""Sending a sweep's events to MLflow in the background.

Training never waits for a tracking server and never fails with it. What does not arrive is sent later: by the same run
of the sweep, by its next one, or by `python -m sweeps sync`.
"""

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service.records.events import EventLog
from service.records.lock import exclusive
from service.records.passwords import hide_passwords
from service.records.state import EVENTS
from service.tracking.connection import first_line
from service.tracking.mlflow_writer import MlflowWriter
from trainables.files import write_atomically

__all__ = ["Shipped", "Shipper"]

CHUNK = 500  # events sent together
INTERVAL = 10.0  # seconds between two sends: what belongs to one trial then takes few calls
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between attempts; doubled while nothing arrives
MOST_WARNINGS = 5  # refused trials that are reported one by one


@dataclass
class Shipped:
    """What a tracking server has received of a sweep."""

    parent: str = ""  # the sweep's run there; a server with another one was emptied and receives everything again
    offset: int = 0  # bytes of the event log that were sent
    refused: dict[str, str] = field(default_factory=dict)  # by trial ("" for the sweep itself): the server's answer


class Shipper(threading.Thread):
    """A thread that copies a sweep's event log to MLflow. It never raises.

    `shipped.json` in the sweep's folder records what each tracking server has received. A trial whose events a server
    refuses is reported and skipped; each new Shipper tries it once more.

    Args:
        folder: The sweep's folder.
        tracking_uri: The tracking server or database.
        warn: Called with one line when the server cannot be reached or refuses something.

    Attributes:
        server: The tracking URI without its password.
        num_sent: Number of events that this Shipper has sent.
        failure: Why some events are not sent; empty if all are.
    """

    def __init__(self, folder: Path, tracking_uri: str, warn: Callable[[str], Any] = print):
        super().__init__(name=f"ship {folder.name} to MLflow", daemon=True)
        self.folder, self.tracking_uri, self.warn = folder, tracking_uri, warn
        self.server = hide_passwords(tracking_uri)
        self.failure = ""
        self.num_sent = 0
        self._unreachable = False  # at the last attempt
        self._closing, self._wake = threading.Event(), threading.Event()
        self._writer: MlflowWriter | None = None
        self._chunk = CHUNK
        self._try_refused = True

    # ---- what was sent ---------------------------------------------------------------------------------------------

    @property
    def shipped(self) -> Shipped:
        """What the server has received, as last recorded."""
        try:
            return Shipped(**self._shipped_by_server()[self.server])
        except (KeyError, TypeError):  # nothing yet, or recorded by another version
            return Shipped()

    def _shipped_by_server(self) -> dict[str, Any]:
        try:
            recorded = json.loads((self.folder / "shipped.json").read_text())
        except (FileNotFoundError, ValueError):  # if it is damaged, everything is sent again, which changes nothing
            return {}
        return recorded if isinstance(recorded, dict) else {}

    def _record(self, shipped: Shipped) -> None:
        text = json.dumps(self._shipped_by_server() | {self.server: asdict(shipped)})
        write_atomically(self.folder / "shipped.json", lambda path: path.write_text(text))

    @property
    def num_waiting(self) -> int:
        """Number of events that the server has not received."""
        shipped = self.shipped
        events = EventLog.read(self.folder / EVENTS, 0 if shipped.refused else shipped.offset)
        return sum(end > shipped.offset or event.get("trial", "") in shipped.refused for event, end in events)

    # ---- the thread ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        num_failed = 0  # attempts in a row that sent nothing
        while True:
            closing, num_sent_before = self._closing.is_set(), self.num_sent
            try:
                with exclusive(self.folder / "shipped.lock"):  # against `sweeps sync` while the sweep runs
                    self._ship()
                num_failed = 0
                if closing:
                    return
            except Exception as error:  # no fault of MLflow may stop a sweep
                self._attempt_failed(error)
                num_failed = num_failed + 1 if self.num_sent == num_sent_before else 1
                if closing and num_failed >= 2:
                    return
            self._wake.wait(min(PAUSE * 2**num_failed, LONGEST_PAUSE) if num_failed else INTERVAL)
            self._wake.clear()

    def _attempt_failed(self, error: Exception) -> None:
        if not self._unreachable:
            self.warn(
                f"MLflow at {self.server} cannot be reached ({type(error).__name__}: {first_line(error)}). "
                "The event log keeps everything and will be sent again"
            )
        self._unreachable, self.failure, self._writer = True, first_line(error), None
        self._chunk = max(1, self._chunk // 2)  # small chunks get through an unreliable connection

    def _ship(self) -> None:
        """Send everything that waits. Raises if the server cannot be reached."""
        if self._writer is None:
            self._writer = MlflowWriter(self.folder, self.tracking_uri)
        shipped = self.shipped
        if shipped.parent != self._writer.parent:
            shipped = Shipped(self._writer.parent)
        if self._try_refused:
            self._ship_refused(self._writer, shipped)
            self._try_refused = False
        while chunk := list(EventLog.read(self.folder / EVENTS, shipped.offset, most=self._chunk)):
            self._send(self._writer, [event for event, _ in chunk], shipped)
            shipped.offset = chunk[-1][1]
            self._record(shipped)
            self._chunk = min(2 * self._chunk, CHUNK)
        self._unreachable, self.failure = False, next(iter(shipped.refused.values()), "")

    def _ship_refused(self, writer: MlflowWriter, shipped: Shipped) -> None:
        refused, shipped.refused = shipped.refused, {}
        events = (
            event
            for event, end in EventLog.read(self.folder / EVENTS)
            if end <= shipped.offset and event.get("trial", "") in refused
        )
        while chunk := list(itertools.islice(events, CHUNK)):
            self._send(writer, chunk, shipped)
        self._record(shipped)

    def _send(self, writer: MlflowWriter, events: list[dict[str, Any]], shipped: Shipped) -> None:
        for key, answer in writer.write(events, skip=shipped.refused).items():
            if len(shipped.refused) < MOST_WARNINGS:
                what = f"trial {key}" if key else "the sweep's summary"
                self.warn(f"MLflow at {self.server} refuses {what} ({answer}); everything else is sent")
            shipped.refused[key] = answer
        self.num_sent += sum(event.get("trial", "") not in shipped.refused for event in events)

    def finish(self, timeout: float) -> int:
        """Send what is left and end the thread.

        Args:
            timeout: Seconds after which this returns even if the thread is still sending.

        Returns:
            The number of events that are not sent.
        """
        self._closing.set()
        self._wake.set()
        self.join(timeout)
        if self.is_alive() and not self.failure:
            self.failure = f"not done after {timeout:g} seconds"
        return self.num_waiting
