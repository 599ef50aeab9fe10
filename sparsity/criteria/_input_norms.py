"""Norms of the inputs of linear and convolution layers, summed up over calibration batches."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsity.criteria._checks import calibrating, parameter_names
from sparsity.criteria._layer_gradients import Layer, layers_of, unfold

__all__ = ["TokenMask", "input_norms"]

TokenMask = Callable[[Any], Tensor | None]


def input_norms(
    where: str,
    weights: Sequence[Tensor],
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Tensor],
    token_mask: TokenMask | None,
) -> list[Tensor]:
    """Return |x_j|, the L2 norm over all samples and positions of the input feature x_j that a weight multiplies.

    Only sums of squares are kept, so memory does not grow with the number of samples.

    Args:
        where: Name of the criterion, for error messages.
        weights: Weights of nn.Linear and nn.Conv2d layers.
        model: The model in evaluation mode.
        batches: Calibration batches.
        forward: Function (model, batch) -> outputs.
        token_mask: Function batch -> bool tensor (N, T), True = counted, or None to count every position. A layer's
            input of another shape than (N, T, features) is counted whole.

    Returns:
        A tensor (groups, 1, columns) per weight, at least float32. Seen as (groups, rows / groups, columns), a weight
        has a norm per column, which all rows of the group share. Linear layers have one group.

    Raises:
        ValueError: If a weight is not that of such a layer, a layer is not called, a token mask is not bool, a batch
            does not fit the model, or there are no batches.
    """
    names = parameter_names(where, model, weights)
    layers = layers_of(where, model, names)
    sums: dict[nn.Module, Tensor] = {}
    counted: Tensor | None = None

    def record(layer: Any, args: tuple[Tensor, ...]) -> None:
        squares = _sum_of_squares(layer, args[0].detach(), counted)
        sums[layer] = sums[layer].add_(squares) if layer in sums else squares

    hooks = [layer.register_forward_pre_hook(record) for layer in dict.fromkeys(layers)]
    num_batches = 0
    try:
        for batch in batches:
            num_batches += 1
            counted = token_mask(batch) if token_mask else None
            if counted is not None and counted.dtype is not torch.bool:
                got = f"{counted.dtype} (convert an attention mask with .bool())"
                raise ValueError(f"{where}: token_mask must return bool, True = token (it selects tokens), got {got}")
            with calibrating(where), torch.no_grad():
                forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not num_batches:
        raise ValueError(f"{where}: batches must hold at least one batch, got none")
    for name, layer in zip(names, layers, strict=True):
        if layer not in sums:
            raise ValueError(
                f"{where}: the layer of {name} must be called as a module (its inputs are recorded there), got no call"
            )
    return [sums[layer].sqrt().view(getattr(layer, "groups", 1), 1, -1) for layer in layers]


def _sum_of_squares(layer: Layer, x: Tensor, counted: Tensor | None) -> Tensor:
    """Sum the squares of each input feature over samples and positions; features in the order of a weight's columns."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(layer, nn.Conv2d):
        # The square of a patch is the patch of the squares, so sum over samples first and unfold one sample.
        return unfold(layer, x.square().sum(0, keepdim=True)).sum((0, 2))
    if counted is not None and x.shape[:-1] == counted.shape:
        x = x[counted]
    return x.flatten(0, -2).square().sum(0)
