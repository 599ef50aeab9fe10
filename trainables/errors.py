"""Exceptions as text inside messages of one line."""

__all__ = ["first_line", "one_line"]


def one_line(error: BaseException) -> str:
    """The exception's type and message, with every run of whitespace as one space."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def first_line(error: BaseException) -> str:
    """The first line of the exception's message, or its type's name if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]
