"""How a trial stands and ends, and the file that says so."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

__all__ = ["RESULT", "SIZES", "Status", "read_result"]

RESULT = "result.json"
SIZES = ("macs", "macs_left", "parameters")  # the metrics of a pruned network's size after shrinking


class Status(StrEnum):
    """The status of a trial. The values are the words in records and messages."""

    WAITING = "waiting"  # to be run again
    RUNNING = "running"
    FINISHED = "finished"  # trained to its end, pruned and evaluated
    DIVERGED = "diverged"  # the loss or a weight became infinite or NaN
    OUT_OF_MEMORY = "out_of_memory"  # of the GPU, or a host allocation that was refused
    ERROR = "error"  # any other exception
    LOST = "lost"  # its worker died repeatedly; only the driver can tell
    STORAGE_FAILED = "storage_failed"  # its folder cannot be written
    SUPERSEDED = "superseded"  # another process has taken it over

    @property
    def ended(self) -> bool:
        """Whether the trial has a result. After a storage fault or a takeover it is still to be computed."""
        return self in (Status.FINISHED, Status.DIVERGED, Status.OUT_OF_MEMORY, Status.ERROR, Status.LOST)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result in a trial's folder, or None if there is none.

    A file that is not valid JSON counts as none: the trial is computed again.
    """
    try:
        return json.loads((folder / RESULT).read_text())
    except (FileNotFoundError, ValueError):
        return None
