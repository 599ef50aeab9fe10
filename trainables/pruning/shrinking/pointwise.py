"""Rules of operations that treat each element, or each channel, on its own."""

import torch

from trainables.pruning.shrinking.calls import Call
from trainables.pruning.shrinking.slots import Value

__all__ = ["batch_norm", "ignored", "instance_norm", "pointwise", "prelu", "product"]


def pointwise(call: Call) -> list[Value] | None:
    """Element by element, with broadcasting."""
    if call.analysis.cautious and any(isinstance(a, int | float) for a in call.node.args):
        return None
    (shape,) = call.shapes
    slots = tuple(_broadcast(call, len(shape) - dim, size) for dim, size in enumerate(shape))
    result = Value(shape, slots)
    result.constants = _evaluate(call, result)
    return [result]


def product(call: Call) -> list[Value] | None:
    """A product is also zero where one factor is."""
    results = pointwise(call)
    for result in results or ():
        for factor in call.values():
            if (zero := _fitted(factor.broadcastable() == 0, result)) is not None and zero.any():
                unknown = torch.full(zero.shape, torch.nan, dtype=torch.float64, device=zero.device)
                known = unknown if result.constants is None else result.constants
                result.constants = known.masked_fill(zero, 0)
    return results


def prelu(call: Call) -> list[Value] | None:
    given, weight = call["self"], call["weight"]
    if given.ndim < 2:
        return None
    if weight.shape != (1,):
        call.analysis.slots.tie(given.slots[1], weight.slots[0])
    result = Value(given.shape, given.slots)
    result.constants = _evaluate(call, result)
    return [result]


def batch_norm(call: Call) -> list[Value] | None:
    """Normalization of each channel by stored statistics, or by those of the batch."""
    given = call["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(value := call.arguments.get(name), Value):
            call.analysis.slots.tie(given.slots[1], value.slots[0])
    result = Value(given.shape, given.slots)
    if "no_training" in str(call.node.target):
        result.constants = _evaluate(call, result)
    return [result, *([Value(shape, (None,) * len(shape)) for shape in call.shapes[1:]])]


def instance_norm(call: Call) -> list[Value] | None:
    if not isinstance(call["weight"], Value):  # the layer compares its num_features, which no tensor shows
        return None
    return batch_norm(call)


def ignored(call: Call) -> list[Value]:
    """A check of a tensor's type."""
    return []


def _broadcast(call, from_the_end, size):
    """The slots of a dimension of the result, counted from the end; those of the arguments are tied."""
    found = []
    for value in call.values():
        dim = value.ndim - from_the_end
        if dim >= 0 and value.shape[dim] == size > 1:
            found.append(value.slots[dim])
    for slots in found[1:]:
        call.analysis.slots.tie(found[0], slots)
    return None if any(slots is None for slots in found) or not found else found[0]


def _evaluate(call, result):
    """The constants of a result, computed by the operation itself; None if it takes no stand-ins of its arguments."""
    if len(result.dims) != 1:
        return None
    tensors = {id(value): value.broadcastable() for value in call.values()}
    if all(tensor.isnan().all() for tensor in tensors.values()):
        return None
    try:
        outcome = call.evaluate(lambda value: tensors[id(value)])
    except RuntimeError:  # it needs integers, or the whole number of channels
        return None
    outcome = outcome[0] if isinstance(outcome, tuple | list) else outcome
    constants = None if outcome.is_complex() else _fitted(outcome.double(), result)
    for value in call.values():  # a comparison with NaN is no NaN, so this is not left to the operation
        if constants is not None and value.tensor is None:
            unknown = _fitted(tensors[id(value)].isnan(), result)
            constants = None if unknown is None else constants.masked_fill(unknown, torch.nan)
    return constants


def _fitted(tensor, result):
    """A tensor that can be broadcast to a result, as one number per position of the result's dimension with slots.

    None if it differs along other dimensions.
    """
    if len(result.dims) != 1:
        return None
    (dim,) = result.dims
    shape = (1,) * (result.ndim - tensor.ndim) + tuple(tensor.shape)
    if len(shape) > result.ndim or any(size > 1 and other != dim for other, size in enumerate(shape)):
        return None
    return tensor.reshape(-1).expand(result.shape[dim])
