"""Arguments as they are written on a command line."""

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["parse_arguments"]


def parse_arguments(group: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; a value is read as JSON if it is valid JSON, else as text.

    Args:
        group: What the arguments are for, and the option that takes them, such as `opt`.

    Raises:
        ValueError: For a pair without a key or without "=".
    """
    arguments = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{group}: must be KEY=VALUE (e.g. --{group} lr=0.1), got {pair!r}")
        try:
            arguments[key] = json.loads(text)
        except json.JSONDecodeError:
            arguments[key] = text
    return arguments
