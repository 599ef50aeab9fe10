"""Which weights of a network pruning may remove."""

import re
from collections.abc import Iterator

from torch import Tensor, nn

from trainables.pruning_method import PruningMethod
from trainables.task import Task

__all__ = ["prunable_weights", "tied_names"]


def prunable_weights(task: Task, model: nn.Module, method: PruningMethod) -> dict[str, Tensor]:
    """The weights that a pruning method may remove, by name.

    They are those that match the method's regular expression `prunable`, frozen ones included, or else those that the
    task chooses. A tied weight is one weight with the first of its names.

    Raises:
        ValueError: If there are none.
    """
    if not method.prunable:
        if chosen := task.prunable(model):
            return chosen
        raise ValueError(
            f"prunable: there must be a weight that the task {type(task).__name__} prunes, got none in "
            f"{type(model).__name__}: choose weights by name, for example --prunable 'weight$'"
        )
    matched = {name: p for name, p in weights_by_name(model) if re.search(method.prunable, name)}
    if not matched:
        names = [name for name, _ in weights_by_name(model)]
        raise ValueError(
            f"prunable: must match the name of a weight (among {', '.join(names[:8])}"
            f"{', ...' if len(names) > 8 else ''}), got {method.prunable!r}"
        )
    return matched


def weights_by_name(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors of more than one dimension: neither biases nor normalization scales."""
    return ((name, p) for name, p in model.named_parameters() if p.ndim > 1 and p.is_floating_point())


def tied_names(model: nn.Module) -> dict[str, str]:
    """The further names of tied parameters, with the first name of each."""
    first: dict[Tensor, str] = {}
    names: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(parameter, name) != name:
            names[name] = first[parameter]
    return names
