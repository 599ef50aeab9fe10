"""Linear and convolution layers seen while the model runs: derivatives of single samples, and where a bias goes.

During `watching`, zeros are added to each layer's output z; the gradient by them is df/dz. They change no output, and
no parameter has to require gradients.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

__all__ = ["Call", "Moments", "Trace", "layers_of", "watching"]

BLOCK = 2**24  # elements of a temporary: single samples' weight gradients, or convolutions' unfolded inputs

Layer = nn.Linear | nn.Conv2d


def layers_of(where: str, model: nn.Module, names: Sequence[str]) -> list[Layer]:
    """The layers whose `weight` the named parameters are. ValueError if one is no such layer's, or several layers'."""
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
    x: Tensor  # what the layer took
    shift: Tensor  # zeros, added to what it gave
    node: Node | None  # what made the sum, in autograd's graph


class Trace:
    """Calls of layers, and for each BatchNorm in evaluation mode what made the inputs that it took."""

    def __init__(self) -> None:
        self.calls: dict[nn.Module, list[Call]] = {}
        self.normed: dict[nn.Module, list[Node | None]] = {}

    def bias_entry(self, model: nn.Module, name: str, outputs: Tensor) -> tuple[str, int]:
        """The entry of the state dict that shifts the output of the layer with the weight `name`, and its sign.

        The layer's bias, there or not; but the running mean, with the sign -1, of a BatchNorm that alone takes the
        output of a layer without a bias: bn(z + d) with the mean m is bn(z) with the mean m - d.
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
    trace = Trace()

    def shifted(layer, args, output):
        shift = torch.zeros_like(output, requires_grad=True)
        output = output + shift
        trace.calls.setdefault(layer, []).append(Call(args[0].detach(), shift, output.grad_fn))
        return output

    def taken(norm, args):
        trace.normed.setdefault(norm, []).append(args[0].grad_fn)

    norms = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    hooks = [layer.register_forward_hook(shifted) for layer in layers]
    hooks += [norm.register_forward_pre_hook(taken) for norm in norms]
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


def num_uses(outputs: Tensor) -> Counter[Node]:
    """How often each node's result is used on the way to the outputs."""
    uses: Counter[Node] = Counter()
    todo = [outputs.grad_fn] if outputs.grad_fn else []
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                todo += [] if node in uses else [node]
                uses[node] += 1
    return uses


class Moments:
    """Sums over samples: A of (df/dw)^2 and B of df/dw df/db, of the weight's shape, C of (df/db)^2, of the bias's.

    With positions p (a linear layer on (N, features) has one), df/dw = sum of x_p df/dz_p and df/db = sum of df/dz_p.
    """

    def __init__(self, layer: Layer):
        self.layer, weight = layer, layer.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.A, self.B = (torch.zeros(weight.shape, dtype=dtype, device=weight.device) for _ in range(2))
        self.C = self.A.new_zeros(len(weight))

    def add(self, x: Tensor, delta: Tensor) -> None:
        """x: the layer's input (N, ...). delta: df/dz (N, ...), f a number for each sample."""
        layer, num_weights = self.layer, self.A.numel()
        num_positions = delta[0].numel() // len(self.C)
        block = max(1, BLOCK // max(num_weights, num_weights // len(self.C) * num_positions))
        num_groups = getattr(layer, "groups", 1)
        A, B, C = (total.view(num_groups, len(self.C) // num_groups, -1) for total in (self.A, self.B, self.C))
        for part, d in zip(x.to(A.dtype).split(block), delta.to(A.dtype).split(block), strict=True):
            n = len(part)
            if isinstance(layer, nn.Conv2d):
                part = _unfold(layer, part).reshape(n, num_groups, -1, num_positions)
                d = d.reshape(n, num_groups, -1, num_positions)
            else:
                part = part.reshape(n, 1, num_positions, -1).mT
                d = d.reshape(n, 1, num_positions, -1).mT
            db = d.sum(-1)  # (samples, groups, rows)
            C += db.square().sum(0).unsqueeze(-1)
            if num_positions == 1:  # df/dw is a product: no need to form it for each sample
                x1 = part.squeeze(-1)
                A += torch.einsum("ngr,ngc->grc", db.square(), x1.square())
                B += torch.einsum("ngr,ngc->grc", db.square(), x1)
            else:
                dw = d @ part.mT  # (samples, groups, rows, columns)
                B += torch.einsum("ngrc,ngr->grc", dw, db)
                A += dw.square_().sum(0)


def _unfold(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """(N, channels, H, W) -> (N, channels * kernel, positions): what each position of the output sees."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    return F.unfold(x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
