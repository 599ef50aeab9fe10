"""How MLflow is reached: its address, its client, and what its errors mean."""

import contextlib
import logging
import os
import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

from service.records.passwords import hide_passwords

__all__ = ["NO_TELEMETRY", "connect", "default_tracking_uri", "first_line", "is_refusal", "warm_up"]

NO_TELEMETRY = ("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow would report usage to its makers


def default_tracking_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI if it is set, else a SQLite database in the folder of all records."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url((runs / "mlflow.db").resolve())


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite database file.

    Raises:
        ValueError: If the path has a character that the installed SQLAlchemy cannot express.
    """
    if not set("%?") & set(str(path)):
        return f"sqlite:///{path}"
    from sqlalchemy.engine import make_url  # slow to import, seldom needed

    # Quote slashes too: MLflow creates the folder that it finds in the URL without decoding it.
    url = f"sqlite:///{quote(str(path), safe='')}"
    if make_url(url).database != str(path):  # before SQLAlchemy 2.1
        raise ValueError(f"runs: must be a folder without % and ? (SQLAlchemy 2.1 takes them), got {path.parent}")
    return url


def connect(tracking_uri: str) -> Any:
    """An MLflow client that prints nothing, reports no usage and fails fast."""
    # Retries belong to the Shipper: MLflow's own block for minutes, and a repeated creation makes two runs.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault(*NO_TELEMETRY)
    from mlflow import MlflowClient  # takes seconds to import

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # the Shipper reports errors, in one line
    return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def warm_up(tracking_uri: str) -> None:
    """Import mlflow and create a missing database in the background, while Ray starts.

    Both take seconds. An error is not reported here: it occurs again when the first record is sent.
    """

    def work() -> None:
        with contextlib.suppress(Exception):
            client = connect(tracking_uri)
            if tracking_uri.startswith("sqlite:"):
                client.search_experiments(max_results=1)

    threading.Thread(target=work, name="import mlflow", daemon=True).start()


def is_refusal(error: Exception) -> bool:
    """Whether an error is the fault of what was sent, so that sending it again is useless.

    Otherwise it is the server's: no answer, no access, a wrong address, too many requests, or an internal error.
    """
    from mlflow.exceptions import MlflowException

    status = getattr(getattr(error, "response", None), "status_code", None)  # requests', from sending an artifact
    if isinstance(error, MlflowException):
        # MLflow maps few statuses to codes of its own. It quotes the status of an answer that is not JSON.
        quoted = re.search(r"failed with error code (\d{3})", str(error))
        status = int(quoted[1]) if quoted else error.get_http_status_code()
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (401, 403, 404, 408, 425, 429)
    # Without an answer: a file or figure that cannot be made. Errors of connections and disks are OSErrors.
    return isinstance(error, ValueError | TypeError | LookupError | ArithmeticError) and not isinstance(error, OSError)


def first_line(error: Exception) -> str:
    """The first line of an error's message, without passwords; the error's type if it has no message."""
    return hide_passwords((str(error).splitlines() or [""])[0])[:200] or type(error).__name__
