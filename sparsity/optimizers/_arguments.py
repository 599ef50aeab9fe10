"""Checks of the optimizers' arguments: one line that says what is valid."""

import inspect
import math

__all__ = ["check_nonnegative", "keywords", "refuse_unknown"]


def keywords(cls: type) -> list[str]:
    """Names of the arguments that a class takes by keyword."""
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def refuse_unknown(where: str, given: dict, valid: list[str]) -> None:
    """ValueError that names the first argument in `given` that is not in `valid`, and the valid ones."""
    for argument in given:
        if argument not in valid:
            raise ValueError(f"{where}: arguments must be among lr, {', '.join(sorted(valid))}, got {argument!r}")


def check_nonnegative(where: str, **arguments) -> None:
    """ValueError that names the first argument that is negative, infinite or nan."""
    for name, value in arguments.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{where}: {name} must be >= 0 and finite, got {value}")
