"""The error of data that cannot be used."""

__all__ = ["DataError"]


class DataError(ValueError):
    """Data that is missing, incomplete or unreadable.

    The message is one line that says where the data was expected, what was found, and what to do.
    """
