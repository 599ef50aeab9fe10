import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsity.arguments import whole_number
from sparsity.criteria._checks import calibrating, needs_data, parameter_names

__all__ = ["synflow"]


@needs_data
def synflow(
    weights: list[Tensor],
    *,
    model: nn.Module,
    inputs: Tensor,
    num_rounds: int = 100,
    density: float = 0.01,
) -> list[Tensor]:
    """Synaptic flow: score = |w| dR/d|w|, computed without data.

    R is the sum of the outputs of the network with absolute weights, on one input of ones. It is the sum over all paths
    from inputs to outputs of the product of |w|, so in a chain of layers the scores of each layer sum to R. Everything
    is computed in float64, since R overflows float32 in deep networks. BatchNorm, in evaluation mode, scales by
    |gamma| / sqrt(running_var + eps).

    This needs a network that only adds and scales: linear layers, convolutions, BatchNorm, pooling, and activations
    that increase for positive inputs. LayerNorm, GroupNorm and attention also subtract means or normalize, so paths
    become negative or cancel. Such networks are refused where it shows in the scores.

    With num_rounds=1 these are the scores. More rounds, as in the reference, prune a little, score the rest, and so on,
    which keeps a layer from losing all its weights. Round k of T leaves density^(k/T) of all weights, and the score is
    the position in the order of removal, 0 for the first. It is valid for every density down to `density`; below, the
    order is that of the last round's scores. The order is over all tensors together, whatever scope the masks have.

    Args:
        weights: Parameters of the model.
        model: The model in evaluation mode.
        inputs: An input of the model (N, ...). Only its shape matters.
        num_rounds: Number of rounds, >= 1.
        density: Fraction of weights that the last round leaves, in (0, 1].

    Returns:
        New float64 tensors of the same shapes, in units of R for one round and of positions for more.

    Raises:
        ValueError: If data is missing, a weight is not the model's, num_rounds is not a whole number >= 1, density is
            not in (0, 1], a score of the first round is negative, or all of them are 0 although no weight is.

    Reference:
        Tanaka, Kunin, Yamins & Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
        flow", NeurIPS 2020, with 100 rounds on freshly initialized weights. Departure: biases and running means count
        as 0, as in the paper's R and in a fresh network. The authors' code (ganguli-lab/Synaptic-Flow) takes their
        absolute values, and a trained network's running means then make paths negative.

    Cost:
        `num_rounds` backward passes of one input. About 12 x the memory of the float32 weights, because copies,
        gradients, scores and order have 64 bits per element.
    """
    num_rounds = whole_number("synflow", "num_rounds", num_rounds, 1)
    if not 0 < density <= 1:
        raise ValueError(f"synflow: density must be in (0, 1] (what the last round leaves), got {density}")
    names = parameter_names("synflow", model, weights)
    if not weights:
        return []
    state = {name: _absolute(name, tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    leaves = [state[name].requires_grad_() for name in names]
    ones = torch.ones(1, *inputs.shape[1:], dtype=torch.float64, device=inputs.device)

    def scores() -> list[Tensor]:
        with calibrating("synflow"):
            flow = functional_call(model, state, (ones,)).sum()
            gradients = torch.autograd.grad(flow, leaves, materialize_grads=True)
        return [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]

    first = scores()
    _check_flow(names, leaves, first)
    if num_rounds == 1:
        return first
    num_weights = sum(leaf.numel() for leaf in leaves)
    place = torch.empty(num_weights, dtype=torch.float64, device=leaves[0].device)
    left = torch.arange(num_weights, device=place.device)  # positions in the concatenated weights, ascending
    for k in range(1, num_rounds + 1):
        flat = torch.cat([score.flatten().to(place.device) for score in (first if k == 1 else scores())])
        order = left[flat[left].argsort(stable=True)]
        place[order] = torch.arange(num_weights - len(order), num_weights, dtype=place.dtype, device=place.device)
        left = order[len(order) - round(density ** (k / num_rounds) * num_weights) :].sort().values
        kept = torch.zeros_like(place).index_fill_(0, left, 1)
        with torch.no_grad():
            for leaf, part in zip(leaves, kept.split([leaf.numel() for leaf in leaves]), strict=True):
                leaf.mul_(part.view_as(leaf).to(leaf.device))
    parts = place.split([leaf.numel() for leaf in leaves])
    return [part.view_as(leaf).to(leaf.device) for part, leaf in zip(parts, leaves, strict=True)]


def _check_flow(names: list[str], leaves: list[Tensor], scores: list[Tensor]) -> None:
    """Raise ValueError if the scores show that R is not a sum over paths of absolute weights."""
    rule = "the network must only add and scale (LayerNorm, GroupNorm and attention do not: they make paths negative)"
    for name, score in zip(names, scores, strict=True):
        if (score < 0).any():
            raise ValueError(f"synflow: {rule}, got a score of {score.min().item():.3g} in {name}")
    if all(leaf.all() for leaf in leaves) and not any(score.any() for score in scores):
        raise ValueError(f"synflow: {rule}, got scores of 0 for all weights, none of which is 0")


def _absolute(name: str, tensor: Tensor) -> Tensor:
    """Absolute values in float64; 0 for biases and running means.

    Buffers of integers, such as counts, are unchanged.
    """
    if not tensor.is_floating_point():
        return tensor
    absolute = tensor.detach().to(torch.float64, copy=True).abs_()
    return absolute.zero_() if name.endswith(("bias", "running_mean")) else absolute
