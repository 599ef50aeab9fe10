"""The size of pruned networks after shrinking, as metrics."""

import json
from typing import Any

from torch import nn

from trainables.errors import first_line
from trainables.pruning.evaluation import Evaluation, apply_pruning
from trainables.task import Task

__all__ = ["check_sizes", "shrunk_sizes"]

LARGEST = 500_000_000  # parameters: the copies of a larger network may not fit into memory

_graphs: dict[str, Any] = {}  # tracing takes a second; the trials of a sweep have the same operations


def shrunk_sizes(task: Task, networks: dict[float, nn.Module], evaluation: Evaluation) -> dict[float, dict[str, float]]:
    """How large pruned networks are without the channels that their outputs do not depend on (see `shrink`).

    Args:
        networks: Sparsity -> trained network, not pruned.
        evaluation: The masks at the same sparsities.

    Returns:
        Sparsity -> `macs`, the multiply-accumulate operations of one example; `macs_left`, the same divided by those
        of the dense network, in (0, 1]; and `parameters`. Empty for a network of more than 500 million parameters.

    Raises:
        ValueError: If the forward pass cannot be traced.
    """
    from trainables.pruning.shrinking import shrink  # lazy: imports torch's compiler, in a second

    if _is_too_large(next(iter(networks.values()))):  # all have one architecture
        return {}
    example = _example(task)
    sizes: dict[float, dict[str, float]] = {}
    for level, network in networks.items():
        pruned = apply_pruning(task, network, evaluation, level)
        shrunk = shrink(pruned, example, graph=_graph(task, pruned, example))
        left = shrunk.after.macs / max(shrunk.before.macs, 1)
        sizes[level] = {"macs": shrunk.after.macs, "macs_left": left, "parameters": shrunk.after.parameters}
    return sizes


def check_sizes(task: Task, network: nn.Module, name: str) -> None:
    """Check that `shrunk_sizes` can count the operations of a network after shrinking.

    Args:
        network: The network as it is pruned, with any weights.
        name: The architecture, for the error message.

    Raises:
        ValueError: If the network is too large, or its forward pass cannot be traced.
    """
    problem = f"it has more than {LARGEST:,} parameters" if _is_too_large(network) else ""
    if not problem:
        try:
            _graph(task, network, _example(task))
        except ValueError as error:
            problem = first_line(error)
    if problem:
        raise ValueError(
            f"max_macs_left: must be left out for {name} (its operations after shrinking cannot be counted), got "
            f"a limit: {problem}"
        )


def _is_too_large(network: nn.Module) -> bool:
    return sum(parameter.numel() for parameter in network.parameters()) > LARGEST


def _example(task: Task) -> Any:
    return task.inputs(next(iter(task.batches("validation", 1))))


def _graph(task: Task, pruned: nn.Module, example: Any) -> Any:
    """The graph of a network, traced once in a process for each architecture and input size."""
    from trainables.pruning.shrinking import trace

    names = [*pruned.state_dict()]  # one criterion adds biases
    key = json.dumps([task.describe_model(), names, list(example.shape)], sort_keys=True)
    if key not in _graphs:
        _graphs[key] = trace(pruned, example)
    return _graphs[key]
