"""Durations for people."""

__all__ = ["in_hours"]


def in_hours(seconds: float) -> str:
    """`90 s`, `15 min` or `2.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
