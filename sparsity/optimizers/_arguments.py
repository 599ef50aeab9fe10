"""Checks of the optimizers' arguments."""

import inspect
import math

__all__ = ["check_nonnegative", "keywords", "refuse_unknown"]


def keywords(cls: type) -> list[str]:
    """Names of the keyword-only arguments of a class."""
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def refuse_unknown(where: str, given: dict, valid: list[str]) -> None:
    """Raise ValueError if an argument in `given` is not in `valid`."""
    for argument in given:
        if argument not in valid:
            raise ValueError(f"{where}: arguments must be among lr, {', '.join(sorted(valid))}, got {argument!r}")


def check_nonnegative(where: str, **arguments) -> None:
    """Raise ValueError if an argument is negative, infinite or nan."""
    for name, value in arguments.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{where}: {name} must be >= 0 and finite, got {value}")
