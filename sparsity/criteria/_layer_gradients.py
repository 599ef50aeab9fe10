"""Gradients of single samples at linear and convolution layers.

Also finds the bias that shifts a layer's output. During `watching`, zeros are added to each layer's output z, and the
gradient with respect to them is df/dz. They change no output, and no parameter has to require gradients.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

__all__ = ["Call", "Layer", "Moments", "Trace", "layers_of", "unfold", "watching"]

BLOCK = 2**24  # elements of a temporary: weight gradients of single samples, or unfolded inputs of convolutions

Layer = nn.Linear | nn.Conv2d


def layers_of(where: str, model: nn.Module, names: Sequence[str]) -> list[Layer]:
    """Return the layers whose `weight` the named parameters are.

    Raises:
        ValueError: If a parameter is not the weight of exactly one nn.Linear or nn.Conv2d.
    """
    layers = []
    for name in names:
        weight = model.get_parameter(name)
        owners = [m for m in model.modules() if any(p is weight for p in m.parameters(recurse=False))]
        if len(owners) > 1 or not isinstance(owners[0], Layer) or owners[0].weight is not weight:
            got = f"{name} of {', '.join(type(owner).__name__ for owner in owners)}"
            raise ValueError(f"{where}: weights must be those of one nn.Linear or nn.Conv2d each, got {got}")
        layers.append(owners[0])
    return layers


class Call(NamedTuple):
    """One call of a layer."""

    x: Tensor  # input
    shift: Tensor  # zeros, added to the output
    node: Node | None  # autograd's node of that sum


class Trace:
    """The calls of each layer, and the autograd nodes of BatchNorms' inputs."""

    def __init__(self) -> None:
        self.calls: dict[nn.Module, list[Call]] = {}
        self.normed: dict[nn.Module, list[Node | None]] = {}

    def bias_entry(self, model: nn.Module, name: str, outputs: Tensor) -> tuple[str, int]:
        """Return the state dict's entry that shifts a layer's output, and its sign.

        It is the layer's bias, even if it has none yet. The exception is a layer without a bias whose output goes to
        one BatchNorm and nowhere else. Its entry is the running mean, with sign -1: bn(z + d) with mean m equals bn(z)
        with mean m - d.

        Args:
            model: The model, in evaluation mode.
            name: Name of the layer's weight in the model.
            outputs: The model's outputs, with their graph.
        """
        path, _, _ = name.rpartition(".")
        layer = model.get_submodule(path)
        node = self.calls[layer][0].node
        if layer.bias is None and node is not None:
            for norm_path, norm in model.named_modules():
                if self.normed.get(norm) == [node] and num_uses(outputs)[node] == 1:
                    return f"{norm_path}.running_mean", -1
        return name.removesuffix("weight") + "bias", 1


@contextlib.contextmanager
def watching(model: nn.Module, layers: Sequence[Layer]) -> Iterator[Trace]:
    """Record the calls of the layers while the block runs the model."""
    trace = Trace()

    def shifted(layer, args, output):
        shift = torch.zeros_like(output, requires_grad=True)
        output = output + shift
        trace.calls.setdefault(layer, []).append(Call(args[0].detach(), shift, output.grad_fn))
        return output

    def received(norm, args):
        trace.normed.setdefault(norm, []).append(args[0].grad_fn)

    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    hooks = [layer.register_forward_hook(shifted) for layer in layers]
    hooks += [norm.register_forward_pre_hook(received) for norm in norms]
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


def num_uses(outputs: Tensor) -> Counter[Node]:
    """Count how often the result of each node is used on the way to the outputs."""
    uses: Counter[Node] = Counter()
    todo = [outputs.grad_fn] if outputs.grad_fn else []
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                todo += [] if node in uses else [node]
                uses[node] += 1
    return uses


class Moments:
    """Sums over samples of products of a layer's gradients.

    A sums (df/dw)^2, B sums df/dw df/db, and C sums (df/db)^2. A and B have the shape of the weight, C that of the
    bias. A layer's output z has positions p, such as the pixels of an image; that of a linear layer on (N, features)
    has one. With the input x, df/dw is the sum over p of x_p df/dz_p, and df/db that of df/dz_p.
    """

    def __init__(self, layer: Layer):
        self.layer, weight = layer, layer.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.A, self.B = (torch.zeros(weight.shape, dtype=dtype, device=weight.device) for _ in range(2))
        self.C = self.A.new_zeros(len(weight))

    def add(self, x: Tensor, delta: Tensor) -> None:
        """Add a batch.

        Args:
            x: The layer's input (N, ...).
            delta: df/dz (N, ...), where f is one number per sample.
        """
        layer, num_weights = self.layer, self.A.numel()
        num_positions = delta[0].numel() // len(self.C)
        block = max(1, BLOCK // max(num_weights, num_weights // len(self.C) * num_positions))
        num_groups = getattr(layer, "groups", 1)
        A, B, C = (total.view(num_groups, len(self.C) // num_groups, -1) for total in (self.A, self.B, self.C))
        for part, d in zip(x.to(A.dtype).split(block), delta.to(A.dtype).split(block), strict=True):
            n = len(part)
            if isinstance(layer, nn.Conv2d):
                part = unfold(layer, part).reshape(n, num_groups, -1, num_positions)
                d = d.reshape(n, num_groups, -1, num_positions)
            else:
                part = part.reshape(n, 1, num_positions, -1).mT
                d = d.reshape(n, 1, num_positions, -1).mT
            db = d.sum(-1)  # (samples, groups, rows)
            C += db.square().sum(0).unsqueeze(-1)
            if num_positions == 1:  # df/dw is an outer product, which need not be formed
                x1 = part.squeeze(-1)
                A += torch.einsum("ngr,ngc->grc", db.square(), x1.square())
                B += torch.einsum("ngr,ngc->grc", db.square(), x1)
            else:
                dw = d @ part.mT  # (samples, groups, rows, columns)
                B += torch.einsum("ngrc,ngr->grc", dw, db)
                A += dw.square_().sum(0)


def unfold(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Unfold (N, channels, H, W) to (N, channels * kernel, positions).

    Each output position has a column with its inputs.
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    return F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
