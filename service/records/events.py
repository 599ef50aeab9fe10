"""What happened, a line an event: the truth that everything else is a copy of.

`events.jsonl` is only ever appended to. A line that a killed process left unfinished is cut off when the file is next
opened.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["EventLog"]


class EventLog:
    """Append-only file of JSON lines. Each has `event` and `time` (seconds since 1970); the rest is the event's own."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)
        self._cut_unfinished_line()

    def _cut_unfinished_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

    def append(self, event: str, **fields: Any) -> dict:
        """On the disk, whole, when this returns; refuses nan and infinity, which are not JSON.

        OSError if the disk takes it not, or not all of it: the journal is then as it was before.
        """
        entry = {"event": event, "time": time.time(), **fields}
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(before)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        return entry

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def read(path: Path, offset: int = 0, most: int | None = None) -> Iterator[tuple[dict, int]]:
        """The whole lines from byte `offset` on, each with the offset behind it; a missing file has none."""
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(offset)
            for number, line in enumerate(file):
                if not line.endswith(b"\n") or number == most:
                    return
                offset += len(line)
                yield json.loads(line), offset
