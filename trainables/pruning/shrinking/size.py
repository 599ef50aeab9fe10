"""How large a network is: its parameters, and the multiplications of a forward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from trainables.pruning.shrinking.tracing import arguments_of

__all__ = ["LayerSize", "NetworkSize", "measure_size"]


@dataclass(frozen=True)
class LayerSize:
    """The size of one layer; see `NetworkSize`."""

    macs: int
    parameters: int


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network.

    Attributes:
        macs: Multiply-accumulate operations of the forward pass of one example: those of convolutions and products of
            matrices, attention included, as torch counts them (half of its FLOPs).
        parameters: Number of elements of all parameters; tied ones count once.
        layers: The same of each layer that has parameters of its own. A tied parameter counts in each of its layers.
    """

    macs: int
    parameters: int
    layers: dict[str, LayerSize]


@torch.no_grad()
def measure_size(model: nn.Module, example_inputs: Any) -> NetworkSize:
    """Count the parameters of a network, and the operations of a forward pass in evaluation mode.

    Args:
        model: The network. It is not changed.
        example_inputs: What `shrink` takes. Their first dimension is that of the examples.
    """
    args, kwargs = arguments_of(example_inputs)
    (batch,) = {len(leaf) for leaf in tree_leaves((args, kwargs))[:1] if isinstance(leaf, Tensor) and leaf.ndim} or {1}
    modes = [(module, module.training) for module in model.modules()]
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            model.eval()(*args, **kwargs)
    finally:
        for module, mode in modes:
            module.training = mode
    counts = counter.get_flop_counts()
    macs = {name.partition(".")[2]: sum(flops.values()) // (2 * batch) for name, flops in counts.items()}
    layers = {
        name: LayerSize(macs.get(name, 0), sum(p.numel() for p in own))
        for name, module in model.named_modules()
        if (own := [*module.parameters(recurse=False)])
    }
    total = counter.get_total_flops() // (2 * batch)
    return NetworkSize(total, sum(p.numel() for p in model.parameters()), layers)
