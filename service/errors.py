"""How a command ends after an error."""

from typing import NoReturn

import typer

__all__ = ["fail"]


def fail(error: Exception) -> NoReturn:
    """Print one line for each fault and exit with code 2."""
    from pydantic import ValidationError  # lazily: it takes a quarter of a second

    if isinstance(error, ValidationError):
        lines = []
        for fault in error.errors():
            if fault["type"] == "default_factory_not_called":  # it follows from another fault
                continue
            field = "/".join(str(part) for part in fault["loc"])
            message = fault["msg"].removeprefix("Value error, ")
            named = fault["type"] == "value_error" and ":" in message.split(" ", 1)[0]
            lines.append(message if named else f"{field}: {message[0].lower()}{message[1:]}, got {fault['input']!r}")
    else:
        lines = [" ".join(str(error).split("\n"))]
    for line in dict.fromkeys(lines):
        typer.echo(line, err=True)
    raise typer.Exit(2)
