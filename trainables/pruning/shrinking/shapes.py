"""Rules of operations that move, join, part or reduce dimensions."""

import math

import numpy as np
import torch

from trainables.pruning.shrinking.calls import Call
from trainables.pruning.shrinking.slots import Value

__all__ = [
    "along",
    "concatenated",
    "expanded",
    "flattened",
    "parted",
    "permuted",
    "reduced",
    "spatial",
    "squeezed",
    "stacked",
    "transposed",
    "unsqueezed",
    "viewed",
]

KEEP_CONSTANTS = ("mean", "amax", "amin")  # reductions of a constant to itself
KEEP_ZEROS = ("sum", "any", "all", "linalg_vector_norm")  # other constants depend on the size


def permuted(call: Call) -> list[Value]:
    given = call["self"]
    return [_moved(call, given, [dim % given.ndim for dim in call["dims"]])]


def transposed(call: Call) -> list[Value] | None:
    given = call["self"]
    if given.ndim < 2:
        return None
    order = list(range(given.ndim))
    first, second = (call["dim0"], call["dim1"]) if "dim0" in call.arguments else (0, 1)  # aten.t has no arguments
    order[first], order[second] = order[second], order[first]
    return [_moved(call, given, order)]


def unsqueezed(call: Call) -> list[Value]:
    given = call["self"]
    slots = list(given.slots)
    slots.insert(call["dim"] % (given.ndim + 1), None)
    return [Value(call.shapes[0], tuple(slots), given.constants)]


def squeezed(call: Call) -> list[Value] | None:
    given = call["self"]
    if "dim" not in call.arguments:  # it would also remove a channel dimension that shrinks to 1
        return None
    dims = call["dim"] if isinstance(call["dim"], list | tuple) else [call["dim"]]
    if any(given.slots[dim] is not None for dim in dims):
        return None
    gone = {dim % given.ndim for dim in dims if given.shape[dim] == 1}
    slots = tuple(slots for dim, slots in enumerate(given.slots) if dim not in gone)
    return [Value(call.shapes[0], slots, given.constants)]


def viewed(call: Call) -> list[Value] | None:
    """A change of shape in the same order of elements.

    Dimensions that are joined keep their slots, each repeated for the positions of the others. Dimensions that are
    split lose them: the code may fix either part.
    """
    given, (shape,) = call["self"], call.shapes
    if (call.analysis.cautious and given.dims) or math.prod(given.shape) != math.prod(shape) or 0 in shape:
        return None
    slots: list[np.ndarray | None] = [None] * len(shape)
    constants = given.constants
    for before, after in _matching(given.shape, shape):
        with_slots = [dim for dim in before if given.slots[dim] is not None]
        if len(before) == 1 == len(after):
            slots[after[0]] = given.slots[before[0]]
        elif len(with_slots) == 1 and len(after) == 1:
            (dim,) = with_slots
            view = [-1 if other == dim else 1 for other in before]
            sizes = [given.shape[other] for other in before]
            slots[after[0]] = np.broadcast_to(given.slots[dim].reshape(view), sizes).reshape(-1)
            if constants is not None:
                constants = constants.view(view).expand(sizes).reshape(-1)
        else:
            for dim in with_slots:
                call.analysis.slots.pin(given.slots[dim])
                constants = None
    return [Value(shape, tuple(slots), constants)]


def flattened(call: Call) -> list[Value] | None:
    """`flatten`, if it was not traced as a view."""
    return viewed(call)


def expanded(call: Call) -> list[Value]:
    """Repetition of dimensions of size 1."""
    given, (shape,) = call["self"], call.shapes
    new = len(shape) - given.ndim
    return [Value(shape, (None,) * new + given.slots, given.constants)]


def parted(call: Call) -> list[Value]:
    """A part of a dimension, or all parts. Its bounds may be written into the code, so its channels stay."""
    given = call["self"]
    dim = (call["dim"] or 0) % given.ndim
    if call.shapes[0] == given.shape and len(call.shapes) == 1:
        return [Value(given.shape, given.slots, given.constants)]
    call.analysis.slots.pin(given.slots[dim])
    constants = given.constants if given.slots[dim] is None else None
    slots: tuple = (*given.slots[:dim], None, *given.slots[dim + 1 :])
    if len(call.shapes[0]) < given.ndim:
        slots = (*slots[:dim], *slots[dim + 1 :])
    return [Value(shape, slots, constants) for shape in call.shapes]


def concatenated(call: Call) -> list[Value] | None:
    given, (shape,) = call["tensors"], call.shapes
    if any(value.ndim != len(shape) for value in given):  # an empty tensor
        return None
    dim = call["dim"] % len(shape)
    slots = [None if d == dim else _tied(call, [value.slots[d] for value in given]) for d in range(len(shape))]
    constants = None
    if any(value.slots[dim] is not None for value in given):
        parts = []
        for value in given:
            own = value.slots[dim]
            if own is None:  # such as the image, joined with features
                own = call.analysis.slots.new(value.shape[dim])
                call.analysis.slots.pin(own)
            parts.append(own)
        slots[dim] = np.concatenate(parts)
        if all(other == dim or slots[other] is None for other in range(len(shape))):
            constants = torch.cat([_constants(value, dim) for value in given])
    return [Value(shape, tuple(slots), constants)]


def stacked(call: Call) -> list[Value]:
    given = call["tensors"]
    slots = [_tied(call, [value.slots[dim] for value in given]) for dim in range(given[0].ndim)]
    slots.insert(call["dim"] % (given[0].ndim + 1), None)
    return [Value(call.shapes[0], tuple(slots))]


def along(call: Call) -> list[Value] | None:
    """An operation on whole rows along some dimensions, such as softmax, which are kept."""
    given = call["self"]
    slots = list(given.slots)
    for dim in _dims(call, given):
        call.analysis.slots.pin(slots[dim])
        slots[dim] = None
    return [Value(shape, tuple(slots)) for shape in call.shapes]


def reduced(call: Call) -> list[Value] | None:
    """A reduction of some dimensions to one number, or to size 1."""
    given = call["self"]
    gone = _dims(call, given)
    for dim in gone:
        call.analysis.slots.pin(given.slots[dim])
    keep = call.arguments.get("keepdim", False)
    slots = tuple(None if dim in gone else own for dim, own in enumerate(given.slots) if keep or dim not in gone)
    constants, name = given.constants, call.node.target._schema.name.removeprefix("aten::")  # type: ignore[union-attr]
    if any(given.slots[dim] is not None for dim in gone) or name not in (*KEEP_CONSTANTS, *KEEP_ZEROS):
        constants = None
    elif constants is not None and name in KEEP_ZEROS:
        constants = constants.masked_fill(constants != 0, torch.nan)
    return [Value(shape, slots, constants) for shape in call.shapes]


def spatial(call: Call) -> list[Value] | None:
    """Pooling, interpolation or padding of the last dimensions, for each channel on its own."""
    given = call["input"] if "input" in call.arguments else call["self"]
    (shape, *_), constants = call.shapes, given.constants
    changed = [dim for dim in range(given.ndim) if given.shape[dim] != shape[dim]]
    name = call.node.target._schema.name  # type: ignore[union-attr]
    operated = {given.ndim - 1 - back for back in range(next((int(c) for c in name if c in "123"), given.ndim - 2))}
    if any(given.slots[dim] is not None for dim in {*changed, *operated}):
        return None
    if constants is not None and (kept := _kept_constant(call, name)) is not None:
        constants = constants.masked_fill(constants != kept, torch.nan)
    values = [Value(shape, given.slots, constants)]
    return values + [Value(shape, given.slots) for shape in call.shapes[1:]]


def _kept_constant(call, name):
    """The only constant that a pooling or padding keeps at its borders; None if it keeps all."""
    if "avg_pool" in name and "adaptive" not in name:
        plain = not any(call["padding"]) and call.arguments.get("divisor_override") is None
        return None if plain else 0.0
    if "max_pool" in name and "adaptive" not in name:
        return None if all(step == 1 for step in call["dilation"]) else torch.nan  # a window of padding alone is -inf
    if name == "aten::constant_pad_nd" or (name == "aten::pad" and call["mode"] == "constant"):
        return float(call["value"] or 0)
    return None


def _moved(call, given, order):
    constants = given.constants if len(given.dims) == 1 else None
    return Value(call.shapes[0], tuple(given.slots[dim] for dim in order), constants)


def _tied(call, columns):
    """Tie the same dimension of several tensors."""
    for slots in columns[1:]:
        call.analysis.slots.tie(columns[0], slots)
    return None if any(slots is None for slots in columns) else columns[0]


def _constants(value, dim):
    if value.constants is None:
        return torch.full((value.shape[dim],), torch.nan, dtype=torch.float64)
    return value.constants.cpu()


def _dims(call, given):
    """The dimensions that an operation names in `dim`: all of them if it names none."""
    dims = call.arguments.get("dim", call.arguments.get("dims"))
    dims = [dims] if isinstance(dims, int) else dims
    return {dim % given.ndim for dim in dims} if dims else set(range(given.ndim))


def _matching(before, after):
    """Pair the dimensions of two shapes with the same elements in the same order, as small groups as possible.

    Dimensions of size 1 belong to no group.
    """
    left = [dim for dim, size in enumerate(before) if size != 1]
    right = [dim for dim, size in enumerate(after) if size != 1]
    while left or right:
        first, second = [left.pop(0)], [right.pop(0)]
        size, other = before[first[0]], after[second[0]]
        while size != other:
            if size < other:
                first.append(left.pop(0))
                size *= before[first[-1]]
            else:
                second.append(right.pop(0))
                other *= after[second[-1]]
        yield first, second
