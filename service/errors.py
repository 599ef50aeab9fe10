"""How a command ends after an error."""

from collections.abc import Mapping
from typing import NoReturn

import typer

__all__ = ["fail"]


def fail(error: Exception, options: Mapping[str, str] | None = None) -> NoReturn:
    """Print one line for each fault and exit with code 2.

    Args:
        options: Field -> the name of its option, if a user has given fields as options.
    """
    from pydantic import ValidationError  # lazily: it takes a quarter of a second

    if isinstance(error, ValidationError):
        lines = []
        for fault in error.errors():
            if fault["type"] == "default_factory_not_called":  # it follows from another fault
                continue
            field = "/".join(str(part) for part in fault["loc"])
            message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            named = fault["type"] == "value_error" and ":" in message.split(" ", 1)[0]
            lines.append(message if named else f"{field}: {message[0].lower()}{message[1:]}, got {fault['input']!r}")
    else:
        lines = [" ".join(str(error).split("\n"))]
    for line in dict.fromkeys(lines):
        field, colon, rest = line.partition(":")
        typer.echo((options or {}).get(field, field) + colon + rest, err=True)
    raise typer.Exit(2)
