"""Checks of the data that criteria receive.

They make sure that no data is missing, that the model owns the weights, and that the batch fits the model.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["calibrating", "needs_data", "parameter_names"]

P = ParamSpec("P")
R = TypeVar("R")


def needs_data(criterion: Callable[P, R]) -> Callable[P, R]:
    """Decorate a criterion to raise ValueError where data is missing.

    Data is missing where a keyword without a default is left out or None.
    """
    parameters = inspect.signature(criterion).parameters.values()
    needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]

    @functools.wraps(criterion)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if missing := [name for name in needed if kwargs.get(name) is None]:
            where = getattr(criterion, "__name__", "criterion")
            raise ValueError(f"{where}: {', '.join(needed)} must be given, got no {', no '.join(missing)}")
        return criterion(*args, **kwargs)

    return checked


def parameter_names(where: str, model: nn.Module, weights: Sequence[Tensor]) -> list[str]:
    """Return each weight's name in the model, which is searched by identity.

    Raises:
        ValueError: If a weight is not the model's, or the model is in training mode.
    """
    if model.training:
        raise ValueError(f"{where}: model must be in evaluation mode (call model.eval()), got training mode")
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for i, weight in enumerate(weights):
        if id(weight) not in name_of:
            got = f"weight {i} of shape {tuple(weight.shape)}"
            raise ValueError(f"{where}: weights must be the model's own parameters (not copies of them), got {got}")
    return [name_of[id(weight)] for weight in weights]


@contextlib.contextmanager
def calibrating(where: str) -> Iterator[None]:
    """Enable gradients, and name the batch in torch's errors.

    An error of torch inside the block means that the batch does not fit the model, except where memory runs out.
    """
    try:
        with torch.enable_grad():
            yield
    except (IndexError, RuntimeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: batch must go through the model (is its shape right?), got {reason}") from error
