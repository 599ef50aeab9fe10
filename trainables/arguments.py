"""Keyword arguments in a configuration: their values, how they are typed on a command line, and calls with them."""

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from sparsity.import_strings import own_frame

__all__ = ["Arguments", "construct", "parse_arguments"]


def check_arguments(arguments: Any, info: ValidationInfo) -> Any:
    for name, value in arguments.items() if isinstance(arguments, dict) else ():
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"{info.field_name}/{name}: must be a number, true, false or a word, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{info.field_name}/{name}: must be finite, got {value}")
    return arguments


Arguments = Annotated[dict[str, bool | int | float | str], BeforeValidator(check_arguments)]


def parse_arguments(group: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs; a value is read as JSON if it is valid JSON, else as text.

    Args:
        group: What the arguments are for, and the option that takes them, such as `opt`.

    Raises:
        ValueError: For a pair without a key or without "=".
    """
    arguments = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{group}: must be KEY=VALUE (e.g. --{group} lr=0.1), got {pair!r}")
        try:
            arguments[key] = json.loads(text)
        except json.JSONDecodeError:
            arguments[key] = text
    return arguments


def construct(where: str, make: Callable[..., Any], *args: Any, arguments: Mapping[str, Any], **given: Any) -> Any:
    """`make(*args, **given, **arguments)`, a constructor with the arguments of the configuration's group `where`.

    ValueError names a argument that it does not take, or lacks, and says what those are that it takes.
    """
    called = getattr(make, "__name__", type(make).__name__)
    signature = inspect.signature(make)
    parameters = list(signature.parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = {p.name: p for p in parameters[len(args) :] if p.kind in kinds and p.name not in given}
    taken = ", ".join(own) or "(none)"
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):  # else it refuses them itself
        for name in given:
            if name not in signature.parameters:
                raise ValueError(f"{where}: {called} must take {name}, got {called}{signature}")
        for argument in arguments:
            if argument not in own:
                raise ValueError(f"{where}: arguments of {called} must be among {taken}, got {argument!r}")
    for name, parameter in own.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise ValueError(f"{where}: arguments of {called} must include {name}, got {dict(arguments)}")
    try:
        return make(*args, **given, **arguments)
    except TypeError as error:
        if own_frame(error):  # a fault inside a user's own code
            raise
        raise ValueError(f"{where}: arguments must be what {called} takes, got {dict(arguments)} ({error})") from error
