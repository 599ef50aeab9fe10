"""Which weights of a network pruning may remove."""

import re

from torch import Tensor, nn

from trainables.pruning_method import PruningMethod
from trainables.task import Task
from trainables.weights import weights_by_name

__all__ = ["prunable_weights"]


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
    matched: dict[str, Tensor] = {name: p for name, p in weights_by_name(model) if re.search(method.prunable, name)}
    if not matched:
        names = [name for name, _ in weights_by_name(model)]
        raise ValueError(
            f"prunable: must match the name of a weight (among {', '.join(names[:8])}"
            f"{', ...' if len(names) > 8 else ''}), got {method.prunable!r}"
        )
    return matched
