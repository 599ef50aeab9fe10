from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsity.arguments import whole_number
from sparsity.criteria._checks import calibrating, needs_data, parameter_names
from sparsity.criteria._layer_gradients import Moments, layers_of, watching

__all__ = ["compensation"]

MAX_OUTPUTS = 1000  # backward passes; more are refused


@needs_data
def compensation(
    weights: list[Tensor],
    *,
    model: nn.Module,
    batch: Any,
    forward: Callable[[nn.Module, Any], Tensor],
    generator: torch.Generator | None = None,
    num_probes: int | None = None,
) -> "CompensatedScores":
    """Elimination-compensation: output change if w is removed and the bias adjusted.

    The score w^2 (A - B^2 / C) is the mean squared change of the outputs when w is removed and the bias of the same row
    is shifted by the best amount. To first order, removing w_ij and adding s to b_i changes output k of a sample by
    -w_ij df_k/dw_ij + s df_k/db_i. With E the mean over the samples of the batch, and sums over the outputs k,

        A_ij = E sum (df_k/dw_ij)^2
        B_ij = E sum (df_k/dw_ij) (df_k/db_i)
        C_i  = E sum (df_k/db_i)^2

    the mean squared change is smallest at s = w_ij B_ij / C_i, where it is the score. This is a least-squares
    projection on df/db_i, hence linear: the sum of the shifts of all weights removed from a row is the best shift for
    them together. Where C_i = 0, the bias does not affect the outputs: the shift is 0 and the score is w^2 A.

    Convolutions, which the reference does not cover, have the same formulas. A weight and a bias act on all positions p
    of the layer's output z, so df_k/dw = sum_p x_p df_k/dz_p and df_k/db = sum_p df_k/dz_p are summed before the
    square. The same holds for linear layers on (N, ..., features).

    Args:
        weights: Weights of nn.Linear and nn.Conv2d layers, each called once.
        model: The model in evaluation mode.
        batch: One calibration batch.
        forward: Function (model, batch) -> outputs (N, ...), each row of which depends on its own sample only.
        generator: Draws the signs, with num_probes.
        num_probes: None computes the sums exactly, with one backward pass per output of a sample, at most 1000. A
            number makes that many passes, each of all outputs with random signs for every sample and output; the
            squares have the same expectation. One probe is often enough, because its noise is averaged over the samples
            too.

    Returns:
        A list of new tensors of the same shapes, >= 0, of at least float32, in units of output^2. It also computes and
        applies the shifts: see `CompensatedScores`.

    Raises:
        ValueError: If data is missing, a weight is not that of such a layer, or the batch does not fit the model.

    Reference:
        Ballini, Muscarnera, Fumagalli, Scotti & Regazzoni, "Elimination-compensation pruning for fully-connected neural
        networks", 2026, arXiv 2602.20467.

    Cost:
        `num_probes` backward passes or, if it is None, one for each output of the network. Memory: 4 x the weights
        (sums, scores and shifts) and temporaries of 64 MiB in float32. For convolutions, and for linear layers on
        sequences, each backward pass computes a separate weight gradient per sample. This takes as much arithmetic as
        an ordinary pass, but reads and writes memory of the weights' size once per sample.
    """
    if num_probes is not None:
        num_probes = whole_number("compensation", "num_probes", num_probes, 1)
    names = parameter_names("compensation", model, weights)
    if not weights:
        return CompensatedScores([], [], [])
    layers = layers_of("compensation", model, names)
    with watching(model, layers) as trace, calibrating("compensation"):
        outputs = forward(model, batch)
    if not isinstance(outputs, Tensor) or not outputs.numel():
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"compensation: forward must return outputs (N, ...) of at least one sample, got {got}")
    if not outputs.requires_grad:
        raise ValueError("compensation: forward must return differentiable outputs, got some without a graph")
    calls = []
    for name, layer in zip(names, layers, strict=True):
        shapes = [tuple(call.x.shape) for call in trace.calls.get(layer, [])]
        if len(shapes) != 1 or not outputs.dim() or shapes[0][0] != len(outputs):
            got = f"inputs of shapes {shapes} for outputs of shape {tuple(outputs.shape)}"
            raise ValueError(f"compensation: the layer of {name} must take the samples as rows, in one call, got {got}")
        calls += trace.calls[layer]
    shifted, moments = [call.shift for call in calls], [Moments(layer) for layer in layers]
    for signs in _probes(outputs, num_probes, generator):
        deltas = torch.autograd.grad(outputs, shifted, signs, retain_graph=True, materialize_grads=True)
        for moment, call, delta in zip(moments, calls, deltas, strict=True):
            moment.add(call.x, delta)
    num_rows = len(outputs) * (num_probes or 1)
    scores, shifts, entries = [], [], []
    for name, weight, moment in zip(names, weights, moments, strict=True):
        w, A, B = weight.detach().to(moment.A.dtype), moment.A / num_rows, moment.B / num_rows
        C = moment.C.view(-1, *[1] * (w.dim() - 1)) / num_rows
        ratio = torch.where(C > 0, B / C, 0)
        scores.append(w.square() * (A - B * ratio).clamp_min_(0))  # rounding can go below 0
        shifts.append(w * ratio)
        entry, sign = trace.bias_entry(model, name, outputs)
        value = _entry(model, entry)
        entries.append(Entry(entry, sign, weight.new_zeros(len(weight)) if value is None else value.detach().clone()))
    return CompensatedScores(scores, shifts, entries)


class Entry(NamedTuple):
    """The tensor that stores a layer's shift.

    It is the layer's bias (sign 1), or a BatchNorm's running mean (sign -1).
    """

    name: str  # in the model's state dict
    sign: int
    value: Tensor  # before any weight is removed


class CompensatedScores(list[Tensor]):
    """Scores with the bias shifts that compensate for removed weights.

    Attributes:
        shifts: One tensor per weight, of its shape: the shift of the row's bias for removing that element.
    """

    def __init__(self, scores: Sequence[Tensor], shifts: Sequence[Tensor], entries: Sequence[Entry]):
        super().__init__(scores)
        self.shifts, self.entries = list(shifts), list(entries)

    def state(self, masks: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return new biases and running means, by their names in the state dict.

        A layer with neither a bias nor a BatchNorm of its own gets a new bias, named as the state dict will name it.

        Args:
            masks: One bool tensor per weight, of its shape, True = kept.
        """
        new = {}
        for entry, shift, mask in zip(self.entries, self.shifts, masks, strict=True):
            total = shift.masked_fill(mask, 0).flatten(1).sum(1)
            new[entry.name] = entry.value + entry.sign * total.to(entry.value)
        return new

    @torch.no_grad()
    def compensate(self, model: nn.Module, masks: Sequence[Tensor]) -> None:
        """Set these values in a model, in place. The caller masks the weights.

        Values are set, not added, so masks of another sparsity may follow, and masks of True undo all shifts.

        Args:
            model: The model, or a copy of it.
            masks: One bool tensor per weight, of its shape, True = kept.
        """
        device = next(model.parameters()).device
        for name, value in self.state(masks).items():
            old = _entry(model, name)
            if old is None:
                path, _, bias = name.rpartition(".")
                model.get_submodule(path).register_parameter(bias, nn.Parameter(value.to(device)))
            else:
                old.copy_(value)


def _entry(model: nn.Module, name: str) -> Tensor | None:
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


def _probes(outputs: Tensor, num_probes: int | None, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Yield the factors of the outputs (N, ...) of each backward pass.

    They select one output of each sample, or give all outputs random signs.
    """
    if num_probes is None:
        num_outputs = outputs[0].numel()
        if num_outputs > MAX_OUTPUTS:
            need = f"num_probes must be given for more than {MAX_OUTPUTS} outputs a sample (each costs a backward pass)"
            raise ValueError(f"compensation: {need}, got {num_outputs} outputs")
        for k in range(num_outputs):
            alone = outputs.new_zeros(len(outputs), num_outputs)
            alone[:, k] = 1
            yield alone.view(outputs.shape)
        return
    if generator is None:
        raise ValueError("compensation: generator must be given with num_probes (it draws the signs), got none")
    for _ in range(num_probes):
        signs = torch.randint(0, 2, outputs.shape, generator=generator, device=generator.device) * 2 - 1
        yield signs.to(outputs)
