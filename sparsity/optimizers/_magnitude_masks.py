"""Which weights an optimizer makes sparse, and masks of the largest ones, fast enough for every step.

A selection replaces the sort. On an accelerator nothing here waits for the device.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsity.masks import n_of_m

__all__ = ["keep_largest", "parse_scope", "sparse_weights"]


def parse_scope(scope: str) -> list[tuple[int, int]]:
    """Return the pairs (n, m) of "n:m" or "n:m,n:m"; none for "global" and "uniform".

    Raises:
        ValueError: If the scope is none of these, or n > m.
    """
    if scope in ("global", "uniform"):
        return []
    patterns = [re.fullmatch(r"([1-9]\d*):([1-9]\d*)", part.strip()) for part in str(scope).split(",")]
    pairs = [(int(p[1]), int(p[2])) for p in patterns if p]
    if len(pairs) < len(patterns) or any(n > m for n, m in pairs):
        raise ValueError(f"scope must be global, uniform, or n:m with n <= m (such as 2:4, or 2:4,4:8), got {scope!r}")
    return pairs


def keep_largest(weights: list[Tensor], scope: str, sparsity: float | None = None) -> list[Tensor]:
    """Return masks (bool, True = kept) of the largest |w|.

    They equal those of `sparsity.masks.prune`, ties included.

    Args:
        weights: Tensors of any shape.
        scope: "global" or "uniform", or one pattern "n:m". A tensor whose input channels m does not divide is kept
            whole, even if it is the only one.
        sparsity: Fraction removed, in [0, 1); unused for "n:m".
    """
    if scope == "global":
        flat = torch.cat([weight.detach().flatten() for weight in weights]).abs_()
        parts = _keep(flat, sparsity).split([weight.numel() for weight in weights])
        return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]
    if scope == "uniform":
        return [_keep(weight.abs().flatten(), sparsity).view(weight.shape) for weight in weights]
    ((n, m),) = parse_scope(scope)
    return [n_of_m(weight.abs(), n, m) for weight in weights]


def sparse_weights(params: Sequence[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
    """Return the parameters of a group that its optimizer makes sparse: tensors of more than one dimension.

    There are none in a group with `dense` = True.
    """
    return [] if group.get("dense") else [p for p in params if p.dim() > 1]


def _keep(flat: Tensor, sparsity: float | None) -> Tensor:
    """Mask that is False at the round(sparsity * n) lowest values.

    Among equal values the first ones are removed.
    """
    assert sparsity is not None
    num_removed = round(sparsity * flat.numel())
    if num_removed == 0:
        return torch.ones_like(flat, dtype=torch.bool)
    threshold = _kth_smallest(flat, num_removed)
    kept = flat > threshold
    num_tied_kept = flat.numel() - num_removed - kept.count_nonzero()
    if flat.is_cpu and not num_tied_kept:
        return kept  # the usual case; on a device, this check would wait for it
    return kept | _last(flat == threshold, num_tied_kept)


def _last(mask: Tensor, num: Tensor) -> Tensor:
    """A mask of the last `num` True values of a mask."""
    position = mask.cumsum(0)
    return mask & (position > position[-1] - num)


def _kth_smallest(flat: Tensor, k: int) -> Tensor:
    """The k-th smallest value, counted from 1.

    On a CPU, NumPy's partition is 20 times as fast as torch's on 11 M float32.
    """
    if flat.is_cpu:
        values = (flat.float() if flat.dtype is torch.bfloat16 else flat).numpy()
        return torch.as_tensor(np.partition(values, k - 1)[k - 1], dtype=flat.dtype)
    return _kth_smallest_on_device(flat, k)


def _kth_smallest_on_device(flat: Tensor, k: int) -> Tensor:
    if 2 * k <= flat.numel():
        return flat.topk(k, largest=False, sorted=False).values.max()
    return flat.topk(flat.numel() - k + 1, sorted=False).values.min()
