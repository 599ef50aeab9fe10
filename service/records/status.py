"""How a trial stands."""

from enum import StrEnum

__all__ = ["RETRIED", "Status"]


class Status(StrEnum):
    """The status of a trial, as recorded, shown and sent to MLflow."""

    WAITING = "waiting"  # to be run again
    RUNNING = "running"
    FINISHED = "finished"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"  # an exception
    LOST = "lost"  # its worker died repeatedly


# What `retry` runs again by default. A diverged trial would diverge again.
RETRIED = (Status.ERROR, Status.LOST, Status.OUT_OF_MEMORY)
