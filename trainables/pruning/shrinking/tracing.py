"""The operations of a network's forward pass, as a graph without in-place operations."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves

from trainables.errors import one_line

__all__ = ["Graph", "arguments_of", "tensors_in", "trace"]


@dataclass(frozen=True)
class Graph:
    """The operations of a network in evaluation mode.

    Attributes:
        nodes: torch.fx nodes in the order of execution: placeholders, calls, and the output.
        names: Placeholder -> name of the parameter or persistent buffer that it stands for.
        constants: Placeholder -> tensor of the network that its state dict does not hold.
        num_outputs: Number of the network's outputs. Further ones are of layers that are run although nothing reads
            them.
    """

    nodes: list[fx.Node]
    names: dict[str, str]
    constants: dict[str, Tensor]
    num_outputs: int


class _Traced(nn.Module):
    """A network that returns its output as a list of tensors, followed by the outputs of some of its layers."""

    def __init__(self, model: nn.Module, paths: Iterable[str] = ()):
        super().__init__()
        self.model, self.paths = model, tuple(paths)

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        found: list[Any] = []
        layers = [self.model.get_submodule(path) for path in self.paths]
        hooks = [layer.register_forward_hook(lambda layer, given, output: found.append(output)) for layer in layers]
        try:
            return tensors_in(self.model(*args, **kwargs)) + tensors_in(found)
        finally:
            for hook in hooks:
                hook.remove()


def arguments_of(example_inputs: Any) -> tuple[tuple, dict[str, Any]]:
    """Positional and keyword arguments of the network: a tensor, a tuple, or a dictionary of keywords."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,), {}


def tensors_in(output: Any) -> list[Tensor]:
    """All tensors in the output of a network: in lists, dictionaries and objects such as a cache of keys and values."""
    found, seen = [], set()

    def collect(value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                found.append(leaf)
            elif hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module | type) and id(leaf) not in seen:
                seen.add(id(leaf))
                collect(vars(leaf))

    collect(output)
    return found


def trace(model: nn.Module, example_inputs: Any) -> Graph:
    """Trace a network in evaluation mode.

    Raises:
        ValueError: If its forward cannot be exported.
    """
    try:
        exported = _export(_Traced(model), example_inputs)
        num_outputs = len(exported.graph_signature.user_outputs)
        if paths := _unread_layers(model, exported):
            exported = _export(_Traced(model, paths), example_inputs)
    except Exception as error:  # the network's own errors, and some ten types of torch's
        raise ValueError(
            f"shrink: model must have a forward that torch.export can trace on the example inputs (its operations show "
            f"which channels are read), got {type(model).__name__} ({one_line(error)[:300]})"
        ) from error
    names, constants = {}, {}
    for spec in exported.graph_signature.input_specs:
        target = (spec.target or "").removeprefix("model.")
        if spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent):
            names[spec.arg.name] = target
        elif spec.kind is InputKind.BUFFER:
            constants[spec.arg.name] = model.get_buffer(target).cpu()
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constants[spec.arg.name] = exported.constants[spec.target].cpu()
    return Graph(list(exported.graph.nodes), names, constants, num_outputs)


def _export(model, example_inputs):
    args, kwargs = arguments_of(example_inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model.eval(), args, kwargs, strict=False).run_decompositions({})


def _unread_layers(model, exported):
    """The layers with a parameter that no output depends on: what else they read must not shrink without them."""
    used = {node.name for node in exported.graph.nodes if node.users}
    specs = [spec for spec in exported.graph_signature.input_specs if spec.kind is InputKind.PARAMETER]
    tensors = {spec.target: model.get_parameter(spec.target.removeprefix("model.")) for spec in specs}
    read = {id(tensors[spec.target]) for spec in specs if spec.arg.name in used}  # under any of a tensor's names
    owners = {target.rpartition(".")[0] for target, tensor in tensors.items() if id(tensor) not in read}
    return sorted(owner.removeprefix("model.") for owner in owners if owner != "model")
