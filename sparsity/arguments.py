"""Checks of the methods' arguments."""

from typing import Any

__all__ = ["whole_number"]


def whole_number(where: str, name: str, value: Any, low: int) -> int:
    """Return an argument as an int: 20, 20.0 and np.int64(20) are all 20.

    Raises:
        ValueError: If the value is not a whole number >= low.
    """
    try:
        number = int(value)
    except (OverflowError, TypeError, ValueError):  # inf, None, nan
        number = low - 1
    if number < low or number != value:
        raise ValueError(f"{where}: {name} must be a whole number >= {low}, got {value!r}")
    return number
