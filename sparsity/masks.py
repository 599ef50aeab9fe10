"""Masks from scores and a sparsity. All counting and tie-breaking happens here.

A mask is a bool tensor, True = kept. Of n weights, exactly round(sparsity * n) are removed, lowest score first, as in
`torch.nn.utils.prune`. Among equal scores the earlier one is removed first (order of the list, then row-major
position), which is the order of a stable ascending argsort.
"""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from sparsity.arguments import whole_number

__all__ = ["Ranking", "n_of_m", "prune", "rank", "sparsity_of"]


def prune(
    scores: Sequence[Tensor], sparsity: float | None, scope: str = "global", *, min_kept: int = 0
) -> list[Tensor]:
    """Return the masks of one sparsity.

    `rank` sorts once for several sparsities.

    Args:
        scores: Tensors of any shape; a higher score is kept longer.
        sparsity: Fraction removed, in [0, 1); None or 1 - n/m for scope "n:m".
        scope: See `rank`.
        min_kept: See `rank`.

    Returns:
        A bool mask for each score tensor, of its shape and on its device, True = kept.

    Raises:
        ValueError: See `rank` and `Ranking.masks`.
    """
    return rank(scores, scope, min_kept=min_kept).masks(sparsity)


def rank(scores: Sequence[Tensor], scope: str = "global", *, min_kept: int = 0) -> "Ranking":
    """Sort scores once, to get the masks of several sparsities.

    Args:
        scores: Tensors of any shape; a higher score is kept longer.
        scope: "global" ranks all tensors together, "uniform" each tensor separately, and "row" each output row of each
            tensor (an index of the first dimension) separately. All rows of a tensor lose the same number of weights,
            or one more, so that the tensor loses as many as with "uniform". One more is lost by the rows whose next
            weight has the lowest scores. A tensor with fewer than two dimensions is a single row. "n:m", such as "2:4",
            keeps n of every m consecutive input channels (see `n_of_m`). Tensors that m does not divide, such as a
            first convolution of three channels, are kept whole, so the sparsity over all tensors is then below 1 - n/m.
        min_kept: Number of weights kept at least in each tensor, or all of a smaller one. Other tensors then lose more.

    Returns:
        The scores in order.

    Raises:
        ValueError: If there are no scores, a score is NaN, scope is unknown, m divides no tensor, or min_kept is not a
            whole number >= 0.
    """
    scores = [score.detach() for score in scores]
    if not scores:
        raise ValueError("masks: scores must hold at least one tensor, got none")
    for i, score in enumerate(scores):
        if score.isnan().any():
            raise ValueError(f"masks: scores must not be nan (they cannot be ranked), got nan in tensor {i}")
    min_kept = whole_number("masks", "min_kept", min_kept, 0)
    if scope == "global":
        return Ranking([_Order(scores, min_kept)])
    if scope == "uniform":
        return Ranking([_Order([score], min_kept) for score in scores])
    if scope == "row":
        if min_kept:
            raise ValueError(f"masks: min_kept must be 0 for scope row (it fixes every count), got {min_kept}")
        return Ranking([_Rows(score) if score.numel() else _Order([score], 0) for score in scores])
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
    raise ValueError(
        f"masks: scope must be one of global, uniform, row, n:m with 1 <= n <= m (such as 2:4), got {scope!r}"
    )


class Ranking:
    """Scores in order, as returned by `rank`."""

    def __init__(self, parts: "Sequence[_Order | _Rows | _Fixed]"):
        self._parts = parts

    def masks(self, sparsity: float | None = None) -> list[Tensor]:
        """Return the masks of one sparsity.

        Args:
            sparsity: Fraction removed, in [0, 1); None or 1 - n/m for scope "n:m".

        Returns:
            A bool mask for each score tensor, of its shape and on its device, True = kept.

        Raises:
            ValueError: If the sparsity is out of range, or min_kept leaves too few weights to remove.
        """
        return [mask for part in self._parts for mask in part.masks(sparsity)]


class _Order:
    """Tensors that are ranked together.

    The values are sorted once; ties are resolved by position at the cut.
    """

    def __init__(self, scores: list[Tensor], min_kept: int):
        self.shapes = [score.shape for score in scores]
        self.devices = [score.device for score in scores]
        flat = torch.cat([_sortable(score).to(self.devices[0]).reshape(-1) for score in scores])
        self.num_weights = flat.numel()
        self.sizes = [score.numel() for score in scores]
        # the mask of the weights that may be removed; None if all may
        self.free = _unprotected(flat, self.sizes, min_kept) if min_kept else None
        self.flat = flat if self.free is None else flat[self.free]
        self.ordered = _sort(self.flat)
        self.min_kept = min_kept

    def masks(self, sparsity: float | None) -> list[Tensor]:
        num_removed = _num_removed(sparsity, self.num_weights)
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


class _Rows:
    """One tensor whose rows are ranked separately."""

    def __init__(self, score: Tensor):
        self.shape = score.shape
        self.scores = _sortable(score).reshape(len(score) if score.dim() > 1 else 1, -1)
        self.ordered = _sort(self.scores)

    def masks(self, sparsity: float | None) -> list[Tensor]:
        num_rows = len(self.scores)
        base, num_more = divmod(_num_removed(sparsity, self.scores.numel()), num_rows)
        removed = torch.full((num_rows, 1), base, device=self.scores.device)
        if num_more:
            removed[self.ordered[:, base].argsort(stable=True)[:num_more]] += 1
        # A weight is removed if it is below its row's threshold, or equal to it and among the first of these.
        threshold = self.ordered.gather(1, (removed - 1).clamp_(min=0))
        below, tied = self.scores < threshold, self.scores == threshold
        first = tied.cumsum(1) <= removed - below.sum(1, keepdim=True)
        return [(~(below | (tied & first)) | (removed == 0)).view(self.shape)]


class _Fixed:
    """The masks of an n:m pattern, which has a single sparsity."""

    def __init__(self, masks: list[Tensor], sparsity: float, scope: str):
        self._masks, self.sparsity, self.scope = masks, sparsity, scope

    def masks(self, sparsity: float | None) -> list[Tensor]:
        if sparsity is not None and not math.isclose(sparsity, self.sparsity, abs_tol=1e-9):
            raise ValueError(
                f"masks: sparsity must be {self.sparsity:g} or None for scope {self.scope}, got {sparsity}"
            )
        return [mask.clone() for mask in self._masks]


def n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    """Return a mask that keeps the n highest of every m consecutive input channels.

    Input channels are dimension 1. A linear weight (out, in) is grouped along its rows, a convolution's (out, in /
    groups, kh, kw) separately at each kernel position. Sparse kernels expect these groups, because they multiply a
    convolution as a matrix whose innermost dimension is the input channels. A transposed convolution stores its weight
    as (in, out / groups, kh, kw), so there the groups are of output channels, which is not what sparse kernels expect.

    Args:
        score: Tensor of any shape.
        n: Number kept of each group.
        m: Size of a group.

    Returns:
        A bool mask of the same shape; all True if m does not divide the input channels. (CrAM's code then lets groups
        run across kernel positions. NVIDIA's ASP skips the layer, as this does.)

    Reference:
        Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", ICLR 2021.
    """
    if not _has_groups(score, m):
        return torch.ones_like(score, dtype=torch.bool, memory_format=torch.contiguous_format)
    last = score.movedim(1, -1)
    order = last.reshape(-1, m).argsort(dim=1, stable=True)
    kept = torch.ones_like(order, dtype=torch.bool).scatter_(1, order[:, : m - n], False)
    return kept.view(last.shape).movedim(-1, 1).contiguous()


def sparsity_of(tensors: Iterable[Tensor]) -> float:
    """Return the fraction of zeros among all elements of the tensors.

    Counts are exact. Of all parameters of a model it is its `model_sparsity`.

    Raises:
        ValueError: If there are no elements.
    """
    tensors = list(tensors)
    num_elements = sum(tensor.numel() for tensor in tensors)
    if not num_elements:
        raise ValueError("masks: tensors must have at least one element to have a sparsity, got none")
    return sum(tensor.numel() - int(tensor.count_nonzero()) for tensor in tensors) / num_elements


def _num_removed(sparsity: float | None, num_weights: int) -> int:
    if sparsity is None or not 0 <= sparsity < 1:
        raise ValueError(f"masks: sparsity must be in [0, 1), the fraction removed, got {sparsity}")
    return round(sparsity * num_weights)


def _keep(flat: Tensor, ordered: Tensor, num_removed: int) -> Tensor:
    """Mask of `flat` that is False at its `num_removed` lowest.

    `ordered` contains the values of `flat`, sorted.
    """
    if num_removed == 0:
        return torch.ones_like(flat, dtype=torch.bool)
    threshold = ordered[num_removed - 1]
    kept = flat > threshold
    num_ties_kept = int(torch.searchsorted(ordered, threshold, right=True)) - num_removed
    if num_ties_kept:  # keep the last ones
        kept[(flat == threshold).nonzero().squeeze(1)[-num_ties_kept:]] = True
    return kept


def _unprotected(flat: Tensor, sizes: list[int], min_kept: int) -> Tensor:
    """Mask of all but the `min_kept` highest of each tensor."""
    return torch.cat([~_keep(part, _sort(part), max(0, part.numel() - min_kept)) for part in flat.split(sizes)])


def _sort(flat: Tensor) -> Tensor:
    """Sort in ascending order, along the last dimension.

    On a CPU, NumPy's sort is 12 times as fast as torch's on 11 M float32.
    """
    return torch.from_numpy(np.sort(flat.numpy())) if flat.is_cpu else flat.sort().values


def _sortable(score: Tensor) -> Tensor:
    """Convert bfloat16, which NumPy lacks, to float32, which represents it exactly."""
    return score.float() if score.dtype is torch.bfloat16 else score


def _has_groups(score: Tensor, m: int) -> bool:
    return score.dim() > 1 and score.shape[1] % m == 0
