"""Which channels go, and how the weights that remain make up for them."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trainables.pruning.shrinking.calls import Analysis, Read

__all__ = ["Plan", "make_plan"]

SIMILAR = 0.1  # a channel that others are merged into has at least this fraction of their largest constant


@dataclass
class Plan:
    """How a network shrinks.

    Attributes:
        kept: Name of a parameter or buffer -> for each of its dimensions the positions that stay, or None for all.
        values: Name -> what replaces a tensor, at its full size. Its channels that go are still there.
        groups: Name of a grouped convolution -> number of its groups that stay.
    """

    kept: dict[str, tuple[np.ndarray | None, ...]]
    values: dict[str, Tensor] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)


@dataclass
class _Weight:
    """A read with what does not change while the plan is made."""

    read: Read
    outputs: np.ndarray  # group of each output
    inputs: np.ndarray  # group of each input
    used: np.ndarray  # (outputs, inputs): the weight is not all zero
    constants: np.ndarray  # of each input, NaN if it is unknown

    @property
    def removable(self) -> np.ndarray:
        """For each input whether the read can do without it."""
        if self.read.weight is None:
            return np.zeros(len(self.inputs), dtype=bool)
        return np.isfinite(self.constants)


def make_plan(analysis: Analysis, *, multiple_of: int = 1) -> Plan:
    """Decide which groups of channels go.

    A group stays if it is pinned, or if an output that stays reads one of its channels. A channel that is constant
    need not be read: zero contributes nothing, another constant can be added to the bias or, where padding makes its
    contribution differ at the borders, to the weight of one other constant channel.

    Args:
        multiple_of: Keep further channels, which nothing reads, until the size of each axis is a multiple of this.
    """
    num_groups, group_of = analysis.slots.groups()
    live = np.zeros(num_groups, dtype=bool)
    for slots in analysis.slots.pinned():
        live[group_of[slots]] = True
    weights = [_weight(read, group_of) for read in analysis.reads if not live[group_of[read.inputs]].all()]
    _sweep(weights, live)
    representatives: dict[int, int] = {}  # index of a weight -> input that others are merged into
    while _choose_representatives(weights, live, representatives):
        _sweep(weights, live)
    axes = [group_of[slots] for value in analysis.parameters.values() for slots in value.slots if slots is not None]
    stays = _fill(axes, live.copy(), multiple_of)
    plan = Plan(
        {
            name: tuple(None if slots is None else np.flatnonzero(stays[group_of[slots]]) for slots in value.slots)
            for name, value in analysis.parameters.items()
        }
    )
    for path, slots in analysis.grouped.items():
        plan.groups[path] = int(stays[group_of[slots]].sum())
    for index, weight in enumerate(weights):
        _compensate(weight, live, representatives.get(index), analysis, plan)
    return plan


def _weight(read, group_of):
    used = read.matrix() != 0
    used = used.flatten(2).any(2) if used.ndim > 2 else used
    constants = np.full(len(read.inputs), np.nan) if read.constants is None else read.constants.cpu().numpy()
    return _Weight(read, group_of[read.outputs], group_of[read.inputs], used.cpu().numpy(), constants)


def _sweep(weights, live):
    """Mark what is read, from the outputs backwards, until nothing changes."""
    before = -1
    while (now := int(live.sum())) != before:
        before = now
        for weight in reversed(weights):
            wanted = weight.used[live[weight.outputs]].any(0) & ~weight.removable
            live[weight.inputs[wanted]] = True


def _merged(weight, live):
    """The inputs that go although they are constant, not zero, and read: those that must be made up for."""
    if weight.read.weight is None:
        return np.zeros(len(weight.inputs), dtype=bool)
    wanted = weight.used[live[weight.outputs]].any(0) & ~live[weight.inputs]
    return wanted & np.isfinite(weight.constants) & (weight.constants != 0)


def _choose_representatives(weights, live, representatives):
    """For each weight without a bias to fold into, choose the input that others are merged into.

    Returns:
        Whether one was chosen that had not been before.
    """
    changed = False
    for index, weight in enumerate(weights):
        if index in representatives or weight.read.bias is not None or not _merged(weight, live).any():
            continue
        size = np.nan_to_num(np.abs(weight.constants), nan=0.0, posinf=0.0)
        candidates = np.flatnonzero(size >= SIMILAR * size.max())
        already = candidates[live[weight.inputs[candidates]]]
        chosen = int(already[0] if len(already) else candidates[0])
        representatives[index] = chosen
        live[weight.inputs[chosen]] = True
        changed = True
    return changed


def _fill(axes, stays, multiple_of):
    """Keep at least one channel of each axis, and a multiple of `multiple_of` as far as there are channels."""
    changed = True
    while changed:
        changed = False
        for groups in axes:
            kept = stays[groups]
            if (num := int(kept.sum())) == len(groups):
                continue
            lacking = max(1, -(-num // multiple_of) * multiple_of) - num
            for group in dict.fromkeys(groups[~kept].tolist()):
                if lacking <= 0:
                    break
                stays[group] = True
                lacking -= int((groups == group).sum())
                changed = True
    return stays


def _compensate(weight, live, representative, analysis, plan):
    """Write the constants that a weight no longer reads into the bias or into the representative's weight."""
    read = weight.read
    gone = np.flatnonzero(~live[weight.inputs])
    if read.weight is None or not len(gone):
        return
    device = read.tensor.device
    made_up = torch.from_numpy(np.flatnonzero(_merged(weight, live))).to(device)
    constants = torch.from_numpy(weight.constants).to(device)
    matrix = read.matrix(plan.values.setdefault(read.weight, read.tensor.clone()))
    if len(made_up):
        columns, factors = matrix[:, made_up].double(), constants[made_up]
        if representative is not None:
            factors = (factors / constants[representative]).view(-1, *(1,) * (matrix.ndim - 2))
            matrix[:, representative] += (columns * factors).sum(1).to(matrix.dtype)
        else:
            summed = columns.flatten(2).sum(2) if columns.ndim > 2 else columns
            bias = plan.values.get(read.bias)
            if bias is None:
                given = analysis.parameters.get(read.bias)
                bias = matrix.new_zeros(len(matrix)) if given is None else given.tensor
            plan.values[read.bias] = (bias.double() + summed @ factors).to(matrix.dtype)
    matrix[:, torch.from_numpy(gone).to(device)] = 0  # a channel that stays to fill an axis has another value now
