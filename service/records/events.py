"""The event log of a sweep: one JSON line for each thing that happened.

`events.jsonl` is only ever appended to and is the only source of truth. The state of a sweep (`service.records.state`)
and MLflow's runs (`service.tracking`) are derived from it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["EventLog", "damaged", "is_event", "remove_incomplete_line"]


class EventLog:
    """An append-only file of JSON lines.

    Each line is an object with `event` (what happened), `time` (seconds since 1970) and the fields of that event.
    Opening the log removes an incomplete last line, which a killed process may have left.

    Args:
        path: The file; it and its folder are created if they do not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        remove_incomplete_line(path)

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event; it is on the disk when this returns.

        Returns:
            The event with its time, as it will be read: tuples are lists, and names are text.

        Raises:
            ValueError: If a field is nan or infinite, which JSON does not have. Nothing is written.
            OSError: If the event cannot be written completely. The log is then as it was before.
        """
        entry = {"event": event, "time": time.time(), **fields}
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        size_before = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size_before)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        return json.loads(line)

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(
        path: Path, offset: int = 0, most: int | None = None, wanted: Callable[[bytes], bool] | None = None
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """Iterate over the complete events from a position on.

        Args:
            path: The log; a missing file has no events.
            offset: Byte at which an event begins.
            most: Largest number of events, unwanted ones included.
            wanted: Decides by an event's line, before it is parsed, whether to yield it; see `is_event`.

        Yields:
            An event and the offset of the next one.

        Raises:
            ValueError: If a line is not JSON.
        """
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(offset)
            for number, line in enumerate(file):
                if not line.endswith(b"\n") or number == most:
                    return
                offset += len(line)
                if wanted is None or wanted(line):
                    yield parse(line, path), offset


def remove_incomplete_line(path: Path) -> None:
    """Cut a file of lines after its last complete line. A killed process may have left a part of a line."""
    content = path.read_bytes()
    end_of_last_line = content.rfind(b"\n") + 1
    if end_of_last_line < len(content):
        os.truncate(path, end_of_last_line)


def is_event(line: bytes, event: str) -> bool:
    """Whether `EventLog.append` wrote this line for such an event. Of lines written otherwise, it may be wrong."""
    return line.startswith(b'{"event": "%s",' % event.encode())


def parse(line: bytes, path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise damaged(path, "one JSON object per line", repr(line[:60]))
    return entry


def damaged(path: Path, rule: str, got: str) -> ValueError:
    """The error for a log that does not hold what it must."""
    return ValueError(f"{path}: must hold {rule} (restore the file from a copy, or choose another --name), got {got}")
