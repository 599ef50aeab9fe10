"""Where a sweep's Optuna studies are kept: a journal file in its folder, or a database."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from service.records.events import remove_incomplete_line

__all__ = ["open_storage"]


def open_storage(place: str | Path) -> BaseStorage:
    """Open Optuna's storage: a database if `place` is a URL, else a journal file.

    A study that several hosts share needs PostgreSQL. A journal file may have one process that writes.

    Raises:
        ValueError: If the journal file is damaged. An incomplete last line is removed instead.
    """
    if isinstance(place, str) and "://" in place:
        return RDBStorage(place)
    return JournalStorage(JournalFile(Path(place)))


class JournalFile(JournalFileBackend):
    """Optuna's journal file, which never ends with a part of a line that the next operation would be appended to."""

    def __init__(self, path: Path):
        super().__init__(str(path))
        self.path = path
        remove_incomplete_line(path)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise ValueError(
                f"{self.path}: must hold one JSON object per line (restore the file from a copy, or choose another "
                f"--name), got {error}"
            ) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations.

        Raises:
            OSError: If they cannot be written completely. The file is then as it was before.
        """
        size_before = self.path.stat().st_size
        try:
            super().append_logs(logs)
        except OSError as error:
            os.truncate(self.path, size_before)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
