"""What a traced network's operations say about its channels: ties, constants, and who reads what."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from trainables.pruning.shrinking.calls import Analysis, Call, values_in
from trainables.pruning.shrinking.rules import RULES
from trainables.pruning.shrinking.slots import Value
from trainables.pruning.shrinking.tracing import Graph

__all__ = ["analyse"]


def analyse(model: nn.Module, graph: Graph, state: Mapping[str, Tensor], *, cautious: bool = False) -> Analysis:
    """Apply the rule of each operation, in the order of execution.

    Args:
        model: The network that was traced, for the kinds of its layers.
        graph: Its graph.
        state: Its parameters and buffers by name, perhaps with other values. Tied ones must be the same tensor.
        cautious: See `Analysis`.
    """
    analysis = Analysis(cautious, model=model)
    owners = first_names(state)
    env: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            env[node] = placeholder(node, graph, state, owners, analysis)
        elif node.op == "output":
            outputs = node.args[0][: graph.num_outputs]  # type: ignore[index]
            for value in values_in(fx.node.map_arg(outputs, env.__getitem__)):
                analysis.slots.pin_all(value)
        elif node.target is operator.getitem:
            sequence, index = node.args
            env[node] = env[sequence][index]  # type: ignore[index]
        elif node.op == "call_function":
            call = Call(node, bound_arguments(node, env), shapes_of(node), analysis, env)
            rule = RULES.get(operation(node))
            outputs = rule(call) if rule else None
            outputs = call.pin_all() if outputs is None else outputs
            compute(call, outputs)
            env[node] = outputs if isinstance(node.meta.get("val"), tuple | list) else next(iter(outputs), None)
        else:  # a graph inside the graph: what it is given is pinned by the operation that runs it
            env[node] = None
    for name, value in analysis.parameters.items():
        if not analysis.uses[name]:  # used in training alone, perhaps
            analysis.slots.pin_all(value)
    return analysis


def placeholder(node: fx.Node, graph: Graph, state: Mapping, owners: Mapping, analysis: Analysis) -> Value | None:
    """The value of an input of the graph. A tensor that the network has under two names is one value."""
    if (name := graph.names.get(node.name)) is not None:
        name = owners[id(state[name])]
        analysis.uses[name] += sum(uses(user, node) for user in node.users)
        if name not in analysis.parameters:
            tensor = state[name]
            slots = tuple(analysis.slots.new(size) if size > 1 else None for size in tensor.shape)
            analysis.parameters[name] = Value(tuple(tensor.shape), slots, tensor=tensor, name=name)
        return analysis.parameters[name]
    shape = getattr(node.meta.get("val"), "shape", None)
    if shape is None:  # a number or None among the inputs
        return None
    return Value(tuple(shape), (None,) * len(shape), tensor=graph.constants.get(node.name))


def compute(call: Call, outputs: list[Value]) -> None:
    """Run an operation that depends on parameters and buffers alone."""
    given = call.values()
    known = bool(given) and all(value.tensor is not None for value in given)
    if not known or not isinstance(call.node.target, torch._ops.OpOverload):
        return
    results = tree_leaves(call.evaluate(lambda value: value.tensor))  # type: ignore[arg-type,return-value]
    results = [result for result in results if isinstance(result, Tensor)]
    for value, result in zip(outputs, results, strict=True):
        value.tensor = result


def operation(node: fx.Node) -> str:
    """The name of an operation without its overload, such as "conv2d"."""
    target = node.target
    return target._schema.name.removeprefix("aten::") if isinstance(target, torch._ops.OpOverload) else str(target)


def bound_arguments(node: fx.Node, env: Mapping[fx.Node, Any]) -> dict[str, Any]:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
    if not isinstance(node.target, torch._ops.OpOverload):
        return {**{str(index): argument for index, argument in enumerate(args)}, **kwargs}
    bound = dict(kwargs)
    for index, argument in enumerate(node.target._schema.arguments):
        if index < len(args):
            bound[argument.name] = args[index]
        elif argument.name not in bound:
            bound[argument.name] = argument.default_value
    return bound


def shapes_of(node: fx.Node) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]


def uses(user: fx.Node, node: fx.Node) -> int:
    return sum(leaf is node for leaf in tree_leaves((user.args, user.kwargs)))


def first_names(state: Mapping[str, Tensor]) -> dict[int, str]:
    """The first name of each tensor."""
    found: dict[int, str] = {}
    for name, tensor in state.items():
        found.setdefault(id(tensor), name)
    return found
