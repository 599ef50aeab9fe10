"""One call of an operation in a traced network, and what is found out about the network from all of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from trainables.pruning.shrinking.slots import Slots, Value

__all__ = ["Analysis", "Call", "Read", "unslotted", "values_in"]


@dataclass
class Read:
    """A linear operation, which reads channels with a weight.

    Attributes:
        tensor: The weight.
        transposed: Whether its first axis is that of the inputs, not of the outputs.
        outputs: Slots of the outputs.
        inputs: Slots of the channels that are read.
        constants: See `Value`, for the channels that are read.
        weight: The weight's name, if this is all that the network does with it, else None: it must not be changed.
        bias: The bias's name, if a constant added to the outputs can be added to it, else None.
    """

    tensor: Tensor
    transposed: bool
    outputs: np.ndarray
    inputs: np.ndarray
    constants: Tensor | None
    weight: str | None
    bias: str | None

    def matrix(self, tensor: Tensor | None = None) -> Tensor:
        """The weight, or another tensor of its shape, as (outputs, inputs, ...)."""
        tensor = self.tensor if tensor is None else tensor
        return tensor.transpose(0, 1) if self.transposed else tensor


@dataclass
class Analysis:
    """What the operations of a network say about its channels.

    Attributes:
        slots: All slots with their ties and pins.
        reads: The linear operations in the order of execution.
        parameters: Name -> value, of all parameters and persistent buffers that the forward pass uses.
        grouped: Name of a grouped convolution -> one slot for each of its groups.
        cautious: Whether arguments of operations may be numbers of channels that the network's code wrote out.
    """

    cautious: bool
    slots: Slots = field(default_factory=Slots)
    reads: list[Read] = field(default_factory=list)
    parameters: dict[str, Value] = field(default_factory=dict)
    grouped: dict[str, np.ndarray] = field(default_factory=dict)
    model: nn.Module | None = None
    uses: Counter = field(default_factory=Counter)

    def used_once(self, value: Value) -> bool:
        """Whether the value is a parameter that one operation uses, once."""
        return value.name is not None and self.uses[value.name] == 1

    def layer(self, weight: Value, kinds: tuple[type[nn.Module], ...]) -> str | None:
        """The name of the module of one of these kinds whose `weight` this is."""
        path, _, attribute = (weight.name or "").rpartition(".")
        assert self.model is not None
        if attribute == "weight" and isinstance(self.model.get_submodule(path), kinds):
            return path
        return None


@dataclass
class Call:
    """One call of an operation.

    Attributes:
        node: Its node in the graph.
        arguments: Its arguments by name, defaults included, with a `Value` for each tensor.
        shapes: The shapes of its outputs.
        analysis: The analysis that it belongs to.
        env: The values of the nodes before it.
    """

    node: fx.Node
    arguments: dict[str, Any]
    shapes: list[tuple[int, ...]]
    analysis: Analysis
    env: Mapping[fx.Node, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def values(self) -> list[Value]:
        """All tensors among the arguments."""
        return values_in(self.arguments)

    def evaluate(self, tensor_of: Callable[[Value], Tensor]) -> Any:
        """Run the operation with these tensors in place of its values. Those of conditions are cast to bool."""

        def cast(node: fx.Node) -> Tensor:
            is_condition = getattr(node.meta.get("val"), "dtype", None) == torch.bool
            return tensor_of(self.env[node]).bool() if is_condition else tensor_of(self.env[node])

        args, kwargs = fx.node.map_arg((self.node.args, self.node.kwargs), cast)
        return self.node.target(*args, **kwargs)  # type: ignore[operator]

    def pin_all(self) -> list[Value]:
        """Keep all channels of all arguments. The outputs have no slots, so no assumption is made about them."""
        for value in self.values():
            self.analysis.slots.pin_all(value)
        return [unslotted(shape) for shape in self.shapes]


def values_in(arguments: Any) -> list[Value]:
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Value)]


def unslotted(shape: Iterable[int]) -> Value:
    shape = tuple(shape)
    return Value(shape, (None,) * len(shape))
