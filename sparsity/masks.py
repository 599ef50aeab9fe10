"""Scores and a sparsity level to masks: counting and tie-breaking happen here only.

A mask is bool, True = kept. Of n weights, exactly round(sparsity * n) are removed (as in torch.nn.utils.prune), lowest
score first; among equal scores the one that stands earlier (order of the list, then row-major position) goes first,
which is the order of a stable ascending argsort.
"""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Ranking", "n_of_m", "prune", "rank", "sparsity_of"]


def prune(
    scores: Sequence[Tensor], sparsity: float | None, scope: str = "global", *, min_kept: int = 0
) -> list[Tensor]:
    """Masks of one sparsity level: `rank(scores, scope, min_kept=min_kept).masks(sparsity)`; see there."""
    return rank(scores, scope, min_kept=min_kept).masks(sparsity)


def rank(scores: Sequence[Tensor], scope: str = "global", *, min_kept: int = 0) -> "Ranking":
    """Sorts the scores once; the result's `.masks(sparsity)` gives the masks of any level.

    scores: tensors of any shape, a higher score is kept longer.
    scope: "global" counts over all tensors jointly, "uniform" in each tensor, "n:m" (such as "2:4") keeps n of every m
        consecutive input channels, see `n_of_m`. Tensors that m does not divide, such as a first convolution of three
        channels, are kept whole, so the sparsity over all tensors is then below 1 - n/m.
    min_kept: keep at least that many weights in each tensor, or all of a smaller one; other tensors give more then.
    ValueError for no scores, NaN scores, an unknown scope, an m that divides no tensor, a bad min_kept.
    """
    scores = [score.detach() for score in scores]
    if not scores:
        raise ValueError("masks: scores must hold at least one tensor, got none")
    for i, score in enumerate(scores):
        if score.isnan().any():
            raise ValueError(f"masks: scores must not be nan (they cannot be ranked), got nan in tensor {i}")
    if not min_kept >= 0 or min_kept != int(min_kept):
        raise ValueError(f"masks: min_kept must be a whole number >= 0, got {min_kept}")
    if scope == "global":
        return Ranking([_Order(scores, min_kept)])
    if scope == "uniform":
        return Ranking([_Order([score], min_kept) for score in scores])
    if pattern := re.fullmatch(r"([1-9]\d*):([1-9]\d*)", str(scope)):
        n, m = map(int, pattern.groups())
        if n <= m:
            if min_kept:
                raise ValueError(f"masks: min_kept must be 0 for scope {scope} (it fixes every count), got {min_kept}")
            if not any(_has_groups(score, m) for score in scores):
                shapes = ", ".join(str(tuple(score.shape)) for score in scores)
                raise ValueError(
                    f"masks: scope {scope} must fit at least one tensor ({m} must divide its input channels, shape[1])"
                    f", got shapes {shapes}"
                )
            return Ranking([_Fixed([n_of_m(score, n, m) for score in scores], 1 - n / m, scope)])
    raise ValueError(f"masks: scope must be one of global, uniform, n:m with 1 <= n <= m (such as 2:4), got {scope!r}")


class Ranking:
    """Scores in order, by `rank`; `masks(sparsity)` cuts them at any level."""

    def __init__(self, parts: "Sequence[_Order | _Fixed]"):
        self._parts = parts

    def masks(self, sparsity: float | None = None) -> list[Tensor]:
        """A bool mask for each score tensor, of its shape and on its device, True = kept.

        sparsity: fraction removed, in [0, 1); for "n:m" scopes None or 1 - n/m.
        ValueError otherwise, or where min_kept leaves too few weights to remove.
        """
        return [mask for part in self._parts for mask in part.masks(sparsity)]


class _Order:
    """Tensors ranked jointly: their values sorted once, ties resolved at the cut, by position."""

    def __init__(self, scores: list[Tensor], min_kept: int):
        self.shapes = [score.shape for score in scores]
        self.devices = [score.device for score in scores]
        flat = torch.cat([_sortable(score).to(self.devices[0]).reshape(-1) for score in scores])
        self.num_weights = flat.numel()
        self.sizes = [score.numel() for score in scores]
        self.free = _unprotected(flat, self.sizes, min_kept) if min_kept else None  # mask of what may be removed
        self.flat = flat if self.free is None else flat[self.free]
        self.ordered = _sort(self.flat)
        self.min_kept = min_kept

    def masks(self, sparsity: float | None) -> list[Tensor]:
        if sparsity is None or not 0 <= sparsity < 1:
            raise ValueError(f"masks: sparsity must be in [0, 1), the fraction removed, got {sparsity}")
        num_removed = round(sparsity * self.num_weights)
        if num_removed > self.flat.numel():
            raise ValueError(
                f"masks: min_kept must leave {num_removed} of {self.num_weights} weights to remove at {sparsity},"
                f" got {self.min_kept} in each of {len(self.sizes)} tensors, which leaves {self.flat.numel()}"
            )
        kept = _keep(self.flat, self.ordered, num_removed)
        if self.free is not None:
            kept = torch.ones_like(self.free).masked_scatter_(self.free, kept)
        parts = zip(kept.split(self.sizes), self.shapes, self.devices, strict=True)
        return [part.view(shape).to(device) for part, shape, device in parts]


class _Fixed:
    """Masks of the one level that an n:m pattern has."""

    def __init__(self, masks: list[Tensor], sparsity: float, scope: str):
        self._masks, self.sparsity, self.scope = masks, sparsity, scope

    def masks(self, sparsity: float | None) -> list[Tensor]:
        if sparsity is not None and not math.isclose(sparsity, self.sparsity, abs_tol=1e-9):
            raise ValueError(
                f"masks: sparsity must be {self.sparsity:g} or None for scope {self.scope}, got {sparsity}"
            )
        return [mask.clone() for mask in self._masks]


def n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    """Mask that keeps the n highest of every m consecutive input channels; all True if m does not divide them.

    Input channels are dimension 1: a linear weight (out, in) is grouped along its rows, a convolution's
    (out, in / groups, kh, kw) at each kernel position apart. Sparse kernels expect these groups, because they multiply
    a convolution as a matrix with the input channels innermost. Source: Zhou et al., "Learning N:M fine-grained
    structured sparse neural networks from scratch", ICLR 2021; CrAM's code does the same. Where m does not divide the
    input channels, CrAM's code lets groups run across kernel positions; NVIDIA's ASP skips the layer, as this does.
    """
    if not _has_groups(score, m):
        return torch.ones_like(score, dtype=torch.bool, memory_format=torch.contiguous_format)
    last = score.movedim(1, -1)
    order = last.reshape(-1, m).argsort(dim=1, stable=True)
    kept = torch.ones_like(order, dtype=torch.bool).scatter_(1, order[:, : m - n], False)
    return kept.view(last.shape).movedim(-1, 1).contiguous()


def sparsity_of(tensors: Iterable[Tensor]) -> float:
    """Fraction of zeros in all elements of the tensors together, an exact count: number of zeros / number of elements.

    Of all parameters it is `model_sparsity`. ValueError if there are no elements.
    """
    tensors = list(tensors)
    num_elements = sum(tensor.numel() for tensor in tensors)
    if not num_elements:
        raise ValueError("masks: tensors must have at least one element to have a sparsity, got none")
    return sum(tensor.numel() - int(tensor.count_nonzero()) for tensor in tensors) / num_elements


def _keep(flat: Tensor, ordered: Tensor, num_removed: int) -> Tensor:
    """Mask of `flat` with its `num_removed` lowest False; `ordered` holds the same values, sorted."""
    if num_removed == 0:
        return torch.ones_like(flat, dtype=torch.bool)
    threshold = ordered[num_removed - 1]
    kept = flat > threshold
    num_ties_kept = int(torch.searchsorted(ordered, threshold, right=True)) - num_removed
    if num_ties_kept:  # the last ones
        kept[(flat == threshold).nonzero().squeeze(1)[-num_ties_kept:]] = True
    return kept


def _unprotected(flat: Tensor, sizes: list[int], min_kept: int) -> Tensor:
    """Mask of what min_kept leaves to remove: all but the `min_kept` highest of each tensor."""
    return torch.cat([~_keep(part, _sort(part), max(0, part.numel() - min_kept)) for part in flat.split(sizes)])


def _sort(flat: Tensor) -> Tensor:
    """Values in ascending order. On a CPU NumPy's sort, 12 times as fast as torch's on 11 M float32."""
    return torch.from_numpy(np.sort(flat.numpy())) if flat.is_cpu else flat.sort().values


def _sortable(score: Tensor) -> Tensor:
    """NumPy has no bfloat16; float32 holds it exactly, so the order is the same."""
    return score.float() if score.dtype is torch.bfloat16 else score


def _has_groups(score: Tensor, m: int) -> bool:
    return score.dim() > 1 and score.shape[1] % m == 0
