"""The file of `sweeps range`, as a sweep reads it."""

import json
from pathlib import Path

from trainables.paths import expanded

__all__ = ["read_range"]


def read_range(path: Path | str) -> tuple[str, tuple[float, float]]:
    """The regularizer of a file of `sweeps range`, and the range of lam."""
    where = f"range_from: {path}"
    try:
        found = json.loads(expanded(path, "range_from").read_text())
        name, low, high = found["regularizer"], float(found["low"]), float(found["high"])
    except OSError as error:
        raise ValueError(f"range_from: must be a file that can be read, got {path} ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{where}: must be a file that `sweeps range` wrote, got another one") from None
    if not (isinstance(name, str) and 0 < low < high < float("inf")):
        raise ValueError(f"{where}: must hold a regularizer and 0 < low < high, got {name!r}, {low:g} and {high:g}")
    return name, (low, high)
