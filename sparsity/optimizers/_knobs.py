"""Checks of the optimizers' knobs: one line that says what is valid."""

import inspect
import math

__all__ = ["check_nonnegative", "keywords", "refuse_unknown"]


def keywords(cls: type) -> list[str]:
    """Names of the knobs that a class takes by keyword."""
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]


def refuse_unknown(where: str, given: dict, valid: list[str]) -> None:
    """ValueError that names the first knob in `given` that is not in `valid`, and the valid ones."""
    for knob in given:
        if knob not in valid:
            raise ValueError(f"{where}: knobs must be among lr, {', '.join(sorted(valid))}, got {knob!r}")


def check_nonnegative(where: str, **knobs) -> None:
    """ValueError that names the first knob that is negative, infinite or nan."""
    for name, value in knobs.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{where}: {name} must be >= 0 and finite, got {value}")
