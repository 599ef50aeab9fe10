"""Remove the channels of a pruned network that its output does not depend on."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from trainables.errors import one_line
from trainables.pruning.shrinking.analysis import analyse
from trainables.pruning.shrinking.plan import Plan, make_plan
from trainables.pruning.shrinking.resizing import resize
from trainables.pruning.shrinking.size import NetworkSize, measure_size
from trainables.pruning.shrinking.tracing import Graph, arguments_of, tensors_in, trace

__all__ = ["Shrunk", "shrink"]


@dataclass(frozen=True)
class Shrunk:
    """A network without the channels that its output does not depend on.

    Attributes:
        model: The smaller network, of the same classes, in evaluation mode. It shares no memory with the original.
        changes: How its tensors and layers differ from those of the architecture, as JSON; see `resize`. With
            `load_state_dict(model.state_dict())` after it, `resize` rebuilds the network.
        before: The size of the original network.
        after: The size of `model`.
        exact: Whether the two compute the same, up to rounding. False with a tolerance.
        note: Why some channels were kept that nothing reads, or "".
    """

    model: nn.Module
    changes: dict[str, Any]
    before: NetworkSize
    after: NetworkSize
    exact: bool
    note: str = ""


@torch.no_grad()
def shrink(
    model: nn.Module, example_inputs: Any, *, multiple_of: int = 1, tolerance: float = 0.0, graph: Graph | None = None
) -> Shrunk:
    """Remove the channels that a pruned network's output does not depend on.

    A channel goes if nothing reads it, or if it has the same value for every input. The result computes the same as
    the network in evaluation mode, for inputs of any size that the network accepts, up to rounding. An operation
    without a rule (see `rules.py`) keeps all channels that it sees: the result is then larger, but still the same. The
    shrunk network is run on random inputs and compared with the original.

    Args:
        model: The network, with zeros where weights were pruned. It is not changed.
        example_inputs: A tensor, a tuple of arguments, or a dictionary of keyword arguments. The forward pass is
            traced with them. If it chooses other operations for inputs of another size, the result is valid for inputs
            of this size only.
        multiple_of: Round the number of channels up to a multiple of this, by keeping channels that are not needed.
            ONNX Runtime is slow at odd widths; 8 suits it.
        tolerance: Treat weights of at most this magnitude as zero. Above 0 the result is not exact.
        graph: What `trace` returned for a network of this architecture, to save tracing it again.

    Raises:
        ValueError: If the forward pass cannot be traced, or an argument is out of range.
    """
    if not isinstance(multiple_of, int) or multiple_of < 1:
        raise ValueError(f"shrink: multiple_of must be a whole number >= 1, got {multiple_of!r}")
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"shrink: tolerance must be >= 0 (a magnitude of weights), got {tolerance!r}")
    # on the CPU: a GPU may round products to 10 bits, too coarse for the comparison, and has less memory for copies
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    original = copy.deepcopy(model).eval().cpu()
    example_inputs = tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, example_inputs)
    graph = graph or trace(original, example_inputs)
    before = measure_size(original, example_inputs)
    for parameter in original.parameters():
        if parameter.ndim > 1 and tolerance:
            parameter.masked_fill_(parameter.abs() <= tolerance, 0)
    note = ""
    for cautious in (False, True):
        state = _state(original)
        plan = make_plan(analyse(original, graph, state, cautious=cautious), multiple_of=multiple_of)
        changes = _changes(original, state, plan)
        smaller = copy.deepcopy(original)
        try:
            resize(smaller, changes).load_state_dict(_sliced(state, plan))
            fault = _difference(original, smaller, example_inputs)
        except Exception as error:  # the network's own code, with numbers of channels written into it
            fault = one_line(error)
        if not fault:
            after = measure_size(smaller, example_inputs)
            return Shrunk(smaller.to(device), changes, before, after, not tolerance, note)
        note = f"channels were kept because the network's code depends on their number ({fault})"
    return Shrunk(original.to(device), {"shapes": {}, "attributes": {}}, before, before, not tolerance, note)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the state dict. Those that the network has under two names are the same object."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    by_id = {id(p): parameters[name] for name, p in model.named_parameters()}
    tied = {name: by_id[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    state = {**tied, **dict(model.named_buffers(remove_duplicate=False))}
    return {name: state[name] for name in model.state_dict() if name in state}


def _sliced(state: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """The state dict of the shrunk network."""
    first = {id(state[name]): name for name in plan.kept}
    sliced = {}
    for name, tensor in state.items():
        known = first.get(id(tensor))
        value = plan.values.get(known or name, tensor)
        sliced[name] = _slice(value, plan.kept[known]) if known else value
    for name, value in plan.values.items():
        if name not in sliced:  # a new bias: as long as its layer's weight
            kept = plan.kept[first[id(state[f"{name.removesuffix('bias')}weight"])]]
            sliced[name] = _slice(value, kept[:1])
    return sliced


def _slice(tensor: Tensor, kept: tuple[np.ndarray | None, ...]) -> Tensor:
    for dim, positions in enumerate(kept):
        if positions is not None and len(positions) < tensor.shape[dim]:
            tensor = tensor.index_select(dim, torch.from_numpy(positions).to(tensor.device))
    return tensor.contiguous()


def _changes(model: nn.Module, state: Mapping[str, Tensor], plan: Plan) -> dict[str, Any]:
    """The shapes that differ, and the attributes of the layers that have them."""
    sliced = _sliced(state, plan)
    changed = {n: list(t.shape) for n, t in sliced.items() if n not in state or t.shape != state[n].shape}
    attributes: dict[str, dict[str, int]] = {}
    for path in dict.fromkeys(name.rpartition(".")[0] for name in changed):
        groups = plan.groups.get(path, 1)
        own = {name: sliced.get(f"{path}.{name}".lstrip(".")) for name in ("weight", "running_mean")}
        numbers = _numbers(model.get_submodule(path), own["weight"], own["running_mean"], groups)
        if numbers := {k: n for k, n in numbers.items() if getattr(model.get_submodule(path), k) != n}:
            attributes[path] = numbers
    return {"shapes": changed, "attributes": attributes}


def _numbers(layer: nn.Module, weight: Tensor | None, mean: Tensor | None, groups: int) -> dict[str, int]:
    """What the attributes of one of torch's layers must be for the shapes of its tensors."""
    if weight is None:
        return {"num_features": len(mean)} if mean is not None and hasattr(layer, "num_features") else {}
    match layer:
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            return {"in_channels": weight.shape[0], "out_channels": weight.shape[1] * groups, "groups": groups}
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return {"in_channels": weight.shape[1] * groups, "out_channels": weight.shape[0], "groups": groups}
        case nn.Linear():
            return {"in_features": weight.shape[1], "out_features": weight.shape[0]}
        case nn.Embedding():
            return {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
        case nn.modules.batchnorm._NormBase():
            return {"num_features": len(weight)}
        case nn.PReLU():
            return {"num_parameters": len(weight)}
    return {}


def _difference(model: nn.Module, smaller: nn.Module, example_inputs: Any) -> str:
    """How the outputs of two networks differ on random inputs, or ""."""
    generator = torch.Generator().manual_seed(0)

    def noise(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            return leaf
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf)

    args, kwargs = tree_map(noise, arguments_of(example_inputs))
    pairs = [tensors_in(network(*args, **kwargs)) for network in (model, smaller)]
    for expected, got in zip(*pairs, strict=True):
        if expected.shape != got.shape:
            return f"an output has the shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
        if not expected.is_floating_point():
            continue
        eps = torch.finfo(expected.dtype).eps
        # the second term: outputs of a network whose signal cancels are rounding errors, and differ by as much
        allowed = eps**0.5 * float(expected.nan_to_num().abs().max()) + eps**0.75
        if not torch.allclose(got, expected, rtol=0, atol=allowed, equal_nan=True):
            return f"an output differs by {float((got - expected).abs().max()):.1g}"
    return ""
