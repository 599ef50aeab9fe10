"""A hash of a task's data, so that trials of different data are never compared."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["fingerprint"]


def fingerprint(data: Any) -> str:
    """16 hexadecimal digits that identify arrays and the plain values around them.

    Args:
        data: Arrays, numbers, texts, None, and dataclasses, dictionaries, tuples and lists of them.

    Raises:
        TypeError: If something else is among them.
    """
    digest = hashlib.sha256()
    _update(digest, data)
    return digest.hexdigest()[:16]


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).data)
    elif dataclasses.is_dataclass(value):
        _update(digest, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}".encode())
        for name in sorted(value, key=str):
            _update(digest, (name, value[name]))
    elif isinstance(value, tuple | list):
        digest.update(f"sequence {len(value)}".encode())
        for each in value:
            _update(digest, each)
    elif value is None or isinstance(value, bool | int | float | str | np.generic):
        digest.update(f"{type(value).__name__} {value!r};".encode())
    else:
        raise TypeError(f"data: must be arrays and plain values, got {type(value).__name__}")
