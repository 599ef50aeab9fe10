"""Rules of operations that read channels with a weight."""

import numpy as np
import torch
from torch import nn

from trainables.pruning.shrinking.calls import Call, Read
from trainables.pruning.shrinking.slots import Value

__all__ = ["addmm", "convolution", "embedding", "linear", "matmul", "transposed_convolution"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def linear(call: Call) -> list[Value] | None:
    weight = call["weight"]
    if weight.tensor is None or weight.ndim != 2:
        return None
    return [_read(call, call["input"], call["input"].ndim - 1, weight, call["bias"], kinds=(nn.Linear,))]


def convolution(call: Call) -> list[Value] | None:
    given, weight = call["input"], call["weight"]
    if weight.tensor is None:
        return None
    padding = call["padding"]
    kernel = weight.shape[2:]
    padded = any(size > 1 for size in kernel) if padding == "same" else padding != "valid" and any(padding)
    dim = given.ndim - weight.ndim + 1
    if call["groups"] > 1:
        return _grouped(call, given, dim, weight, padded, transposed=False)
    return [_read(call, given, dim, weight, call["bias"], kinds=CONVOLUTIONS, padded=padded)]


def transposed_convolution(call: Call) -> list[Value] | None:
    given, weight = call["input"], call["weight"]
    if weight.tensor is None:
        return None
    dim = given.ndim - weight.ndim + 1
    if call["groups"] > 1:
        return _grouped(call, given, dim, weight, True, transposed=True)
    return [_read(call, given, dim, weight, call["bias"], kinds=TRANSPOSED, padded=True, transposed=True)]


def matmul(call: Call) -> list[Value] | None:
    """A product of matrices; with a second matrix of parameters it reads channels."""
    first, second = call["self"], call["mat2"] if "mat2" in call.arguments else call["other"]
    return _product(call, first, second, None)


def addmm(call: Call) -> list[Value] | None:
    if call["alpha"] != 1 or call["beta"] != 1:
        return None
    return _product(call, call["mat1"], call["mat2"], call["self"])


def embedding(call: Call) -> list[Value]:
    weight, indices = call["weight"], call["indices"]
    call.analysis.slots.pin(weight.slots[0])
    call.analysis.slots.pin_all(indices)
    return [Value(call.shapes[0], (None,) * indices.ndim + (weight.slots[1],))]


def _product(call, first, second, bias):
    if min(first.ndim, second.ndim) < 2:
        return None
    if second.tensor is not None and second.ndim == 2 and first.tensor is None:
        return [_read(call, first, first.ndim - 1, second, bias, kinds=(), transposed=True)]
    if bias is not None or first.ndim != second.ndim or first.shape[:-2] != second.shape[:-2]:
        return None
    slots = call.analysis.slots
    slots.pin(first.slots[-1])
    slots.pin(second.slots[-2])
    batch = []
    for own, other in zip(first.slots[:-2], second.slots[:-2], strict=True):
        slots.tie(own, other)
        batch.append(None if own is None or other is None else own)
    return [Value(call.shapes[0], (*batch, first.slots[-2], second.slots[-1]))]


def _read(call, given, dim, weight, bias, *, kinds, padded=False, transposed=False):
    """Record that each output is a sum over the channels along one dimension, times the weight.

    Args:
        kinds: Layers that can be given a bias.
        padded: Whether a constant input gives other outputs at the borders.
        transposed: Whether the weight's first axis is that of the inputs.
    """
    analysis = call.analysis
    inputs, outputs = weight.slots[:2] if transposed else weight.slots[1::-1]
    matrix = weight.tensor.transpose(0, 1) if transposed else weight.tensor
    if matrix.is_complex() or (isinstance(bias, Value) and bias.tensor is None):
        return call.pin_all()[0]
    analysis.slots.tie(given.slots[dim], inputs)
    for kernel in weight.slots[2:]:
        analysis.slots.pin(kernel)
    if isinstance(bias, Value):
        if bias.ndim == 1:
            analysis.slots.tie(outputs, bias.slots[0])
        else:
            analysis.slots.pin_all(bias)
            analysis.slots.pin(outputs)
    slots = list(given.slots)
    slots[dim] = outputs
    constants = given.constants if given.dims == [dim] else None
    result = Value(call.shapes[0], tuple(slots))
    if result.dims == [dim] and (bias is None or bias.ndim == 1):
        values = _known(constants, matrix.shape[1]).to(matrix.device)
        result.constants = _constant_outputs(matrix, values, bias, padded)
    if given.slots[dim] is not None and inputs is not None:
        once = analysis.used_once(weight)
        name = weight.name if once else None
        folded = _bias(analysis, weight, bias, kinds) if once and not padded else None
        if outputs is None:
            outputs = analysis.slots.new(matrix.shape[0])
            analysis.slots.pin(outputs)
        analysis.reads.append(Read(weight.tensor, transposed, outputs, inputs, constants, name, folded))
    return result


def _bias(analysis, weight, bias, kinds):
    """The name of the bias that a constant can be added to: that of the call, or a new one of the layer."""
    if isinstance(bias, Value):
        return bias.name if analysis.used_once(bias) and bias.ndim == 1 else None
    path = analysis.layer(weight, kinds)
    if path is None or analysis.cautious or analysis.model.get_submodule(path).bias is not None:
        return None
    return f"{path}.bias"


def summed(matrix: torch.Tensor) -> torch.Tensor:
    """(outputs, inputs, ...) summed over the positions of the kernel."""
    return matrix.flatten(2).sum(2) if matrix.ndim > 2 else matrix


def _known(constants, size):
    return torch.full((size,), torch.nan, dtype=torch.float64) if constants is None else constants


def _constant_outputs(matrix, constants, bias, padded):
    """For each output its value for every input of the network, NaN if it is not constant.

    Args:
        matrix: (outputs, inputs, ...).
        constants: The value of each input, NaN if it is not constant.
    """
    known = constants.isfinite() & (~torch.tensor(padded) | (constants == 0))
    weight = matrix.double()
    varying = (weight[:, ~known] != 0).flatten(1).any(1)
    outputs = summed(weight[:, known]) @ constants[known]
    if bias is not None:
        outputs = outputs + bias.tensor.double()
    return outputs.masked_fill(varying, torch.nan)


def _grouped(call, given, dim, weight, padded, *, transposed):
    """A grouped or depthwise convolution: the channels of a group, inputs and outputs, stay or go together."""
    analysis, groups, bias = call.analysis, call["groups"], call["bias"]
    path = analysis.layer(weight, TRANSPOSED if transposed else CONVOLUTIONS)
    if path is None or weight.tensor.is_complex() or (bias is not None and bias.tensor is None):
        return None
    num_outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    first, *rest = weight.slots
    for axis in rest:
        analysis.slots.pin(axis)
    inputs = first if transposed else given.slots[dim]
    outputs = analysis.slots.new(num_outputs) if transposed else first
    if given.slots[dim] is None or first is None:  # channels of the image
        analysis.slots.pin_all(weight)
        analysis.slots.pin_all(given)
        analysis.slots.pin(outputs)
    else:
        analysis.slots.tie(inputs, given.slots[dim])
        by_group = np.concatenate([inputs.reshape(groups, -1), outputs.reshape(groups, -1)], axis=1)
        for column in by_group.T[1:]:
            analysis.slots.tie(by_group[:, 0], column)
        analysis.grouped[path] = by_group[:, 0]
    if bias is not None:
        analysis.slots.tie(outputs, bias.slots[0])
    slots = list(given.slots)
    slots[dim] = outputs
    result = Value(call.shapes[0], tuple(slots))
    if given.dims in ([dim], []) and result.dims == [dim]:
        matrices = weight.tensor.unflatten(0, (groups, -1))
        matrices = matrices.transpose(1, 2) if transposed else matrices
        constants = _known(given.constants, given.shape[dim]).to(weight.tensor.device).view(groups, -1)
        parts = [_constant_outputs(m, c, None, padded) for m, c in zip(matrices, constants, strict=True)]
        result.constants = torch.cat(parts) if bias is None else torch.cat(parts) + bias.tensor.double()
    return [result]
