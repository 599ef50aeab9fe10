"""What criteria that run the model share: is the data there, are the weights the model's, does the batch go through."""

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
    """Gives a criterion one clear line where a keyword without a default is left out, or None."""
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
    """Each weight's name in the model, found by identity. ValueError for others, or a model in training mode."""
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
    """Gradients on; what torch says of a batch that does not go through the model becomes one line."""
    try:
        with torch.enable_grad():
            yield
    except torch.OutOfMemoryError:
        raise
    except (IndexError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: batch must go through the model (is its shape right?), got {reason}") from error
