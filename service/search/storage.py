"""Where a sweep's Optuna studies are kept: a journal file in its folder, or a database."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from service.records.events import remove_incomplete_line
from service.records.passwords import hide_passwords
from trainables.errors import first_line

__all__ = ["open_storage"]


def open_storage(place: str | Path) -> BaseStorage:
    """Open Optuna's storage.

    Args:
        place: The URL of a database, or the path of a journal file, which may have one process that writes. A study
            that several hosts share needs PostgreSQL.

    Raises:
        ValueError: If the database cannot be opened, or the journal file is damaged. An incomplete last line of the
            file is removed instead.
    """
    if isinstance(place, Path):
        return JournalStorage(JournalFile(place))
    try:
        return RDBStorage(place)
    except Exception as error:  # SQLAlchemy, Optuna and the database's driver have no exception in common
        got = hide_passwords(f"{place} ({first_line(error)})")
        raise ValueError(f"study_uri: must be a database that can be opened, got {got}") from None


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
