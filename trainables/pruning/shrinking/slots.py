"""Channels of tensors as slots: which must be kept or removed together, and which must stay."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["Slots", "Value"]


@dataclass
class Value:
    """A tensor of a traced network.

    A dimension has slots if its size follows from that of parameters, so that it can shrink with them. Batch and
    spatial dimensions have none, and neither has a dimension of size 1: an axis keeps at least one channel.

    Attributes:
        shape: The sizes of its dimensions.
        slots: For each dimension the slots of its positions, or None.
        constants: For each position along the only dimension with slots: the value (float64) that all elements have
            there for every input of the network, or NaN if it is unknown. None if all are unknown.
        tensor: The content, if it depends on parameters and buffers alone.
        name: The name of the parameter or buffer, if the value is one.
    """

    shape: tuple[int, ...]
    slots: tuple[np.ndarray | None, ...]
    constants: Tensor | None = None
    tensor: Tensor | None = None
    name: str | None = None

    @property
    def dims(self) -> list[int]:
        """The dimensions that have slots."""
        return [dim for dim, slots in enumerate(self.slots) if slots is not None]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def broadcastable(self) -> Tensor:
        """The constants, as a tensor with size 1 in all other dimensions; a single NaN if nothing is known."""
        if self.tensor is not None:
            return self.tensor.double() if self.tensor.is_floating_point() else self.tensor
        if self.constants is None:
            return torch.full((1,) * self.ndim, torch.nan, dtype=torch.float64)
        return self.constants.view([-1 if slots is not None else 1 for slots in self.slots])


class Slots:
    """All slots of a network, with what is known about them.

    A group is a set of slots that are tied, directly or through others: all are removed or none.
    """

    def __init__(self) -> None:
        self.count = 0
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._pinned: list[np.ndarray] = []

    def new(self, count: int) -> np.ndarray:
        """Make slots for the positions of a dimension."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def tie(self, first: np.ndarray | None, second: np.ndarray | None) -> None:
        """Tie the slots of two dimensions of the same size, position by position. None stands for a fixed size."""
        if first is None or second is None:
            self.pin(first)
            self.pin(second)
        elif first is not second:
            assert len(first) == len(second)
            self._ties.append((first, second))

    def pin(self, slots: np.ndarray | None) -> None:
        """Keep the slots, whatever reads them."""
        if slots is not None:
            self._pinned.append(slots)

    def pin_all(self, value: Value) -> None:
        for slots in value.slots:
            self.pin(slots)

    def pinned(self) -> Iterator[np.ndarray]:
        return iter(self._pinned)

    def groups(self) -> tuple[int, np.ndarray]:
        """Return the number of groups, and the group of each slot."""
        pairs = [np.concatenate(side) if side else np.zeros(0, dtype=int) for side in zip(*self._ties, strict=True)]
        first, second = pairs or (np.zeros(0, dtype=int),) * 2
        edges = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(self.count, self.count))
        return connected_components(edges, directed=False)
