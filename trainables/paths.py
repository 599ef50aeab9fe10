"""Paths as users give them."""

from pathlib import Path

__all__ = ["expanded"]


def expanded(path: str | Path, where: str) -> Path:
    """The path with a user's home in place of `~`. ValueError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{where}: must be without ~, or begin with the home of a user, got {str(path)!r}") from None
