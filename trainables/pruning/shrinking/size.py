"""How large a network is: its parameters, and the multiplications of a forward pass."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
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
        parameters: Number of elements of all parameters. A tied parameter counts once.
        layers: The same for each layer that has parameters of its own. A tied parameter counts in each of its layers.
    """

    macs: int
    parameters: int
    layers: dict[str, LayerSize]


@torch.no_grad()
def measure_size(model: nn.Module, example_inputs: Any) -> NetworkSize:
    """Count the parameters of a network, and the operations of a forward pass in evaluation mode.

    Args:
        model: The network. It is not changed.
        example_inputs: What `shrink` takes. The first dimension of the first tensor is that of the examples.
    """
    first = next((leaf for leaf in tree_leaves(arguments_of(example_inputs)) if isinstance(leaf, Tensor)), None)
    batch = len(first) if first is not None and first.ndim else 1
    try:  # the meta device knows shapes only, so nothing is computed
        counter = _count(_on_meta(model), tree_map(_to_meta, arguments_of(example_inputs)))
    except (NotImplementedError, RuntimeError):  # the forward pass looks at values, or names a device
        counter = _count(copy.deepcopy(model), arguments_of(example_inputs))
    counts = counter.get_flop_counts()
    macs = {name.partition(".")[2]: sum(flops.values()) // (2 * batch) for name, flops in counts.items()}
    layers = {
        name: LayerSize(macs.get(name, 0), sum(p.numel() for p in own))
        for name, module in model.named_modules()
        if (own := [*module.parameters(recurse=False)])
    }
    total = counter.get_total_flops() // (2 * batch)
    return NetworkSize(total, sum(p.numel() for p in model.parameters()), layers)


def _count(model, arguments):
    args, kwargs = arguments
    counter = FlopCounterMode(display=False)
    with counter:
        model.eval()(*args, **kwargs)
    return counter


def _on_meta(model):
    """A copy without its values, which takes no memory."""
    tensors = [*model.parameters(), *model.buffers()]
    memo = {id(t): nn.Parameter(_to_meta(t), False) if isinstance(t, nn.Parameter) else _to_meta(t) for t in tensors}
    return copy.deepcopy(model, memo)


def _to_meta(leaf):
    return leaf.detach().to("meta") if isinstance(leaf, Tensor) else leaf
