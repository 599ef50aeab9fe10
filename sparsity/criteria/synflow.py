import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsity.criteria._calibration import calibrating, needs_data, parameter_names

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
    """score = |w| * dR/d|w|, R the sum of the outputs of the network of absolute weights on one input of ones.

    Without data: R sums the product of |w| over all paths from inputs to outputs, so each layer of a chain of layers
    has scores that sum to R. All in float64: R overflows float32 in deep networks.
    One round (num_rounds=1) gives these scores. More rounds, as in the source, prune a little, score what is left, and
    so on, which keeps a layer from losing all its weights: round k of T leaves density^(k/T) of all weights, and the
    score is the weight's place in the order of removal, 0 for the first. It serves every level down to `density`, and
    below by the last round's scores. The order is over all tensors jointly, whatever scope cuts the masks.
    Source: Tanaka, Kunin, Yamins & Ganguli, "Pruning neural networks without any data by iteratively conserving
    synaptic flow", NeurIPS 2020: 100 rounds, on freshly initialized weights. Departure: biases and running means count
    as 0, as in the paper's R and as they are in a fresh network; the authors' code (ganguli-lab/Synaptic-Flow) takes
    their absolute values, and a trained network's running means make negative paths of that.
    weights: parameters of the model. model, inputs: see sparsity/criteria/__init__.py; only the shape of inputs counts.
    BatchNorm, in evaluation mode, scales by |gamma| / sqrt(running_var + eps). The model itself is not touched.
    Returns new float64 tensors of the same shapes, in units of R or, for more than one round, of places; no graph.
    ValueError if data is missing, a weight is not the model's, num_rounds < 1 or density is not in (0, 1].
    Cost: num_rounds backward passes of one input; copies, gradients, scores and order in 64 bits, about 12 x float32
    weights.
    """
    if num_rounds != int(num_rounds) or num_rounds < 1:
        raise ValueError(f"synflow: num_rounds must be a whole number >= 1, got {num_rounds}")
    if not 0 < density <= 1:
        raise ValueError(f"synflow: density must be in (0, 1], the fraction that the last round leaves, got {density}")
    names = parameter_names("synflow", model, weights)
    state = {name: _absolute(name, tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    leaves = [state[name].requires_grad_() for name in names]
    ones = torch.ones(1, *inputs.shape[1:], dtype=torch.float64, device=inputs.device)

    def scores() -> list[Tensor]:
        with calibrating("synflow"):
            flow = functional_call(model, state, (ones,)).sum()
            gradients = torch.autograd.grad(flow, leaves, materialize_grads=True)
        return [leaf.detach() * gradient for leaf, gradient in zip(leaves, gradients, strict=True)]

    if num_rounds == 1:
        return scores()
    num_weights = sum(leaf.numel() for leaf in leaves)
    place = torch.empty(num_weights, dtype=torch.float64, device=leaves[0].device)
    left = torch.arange(num_weights, device=place.device)  # positions in the concatenated weights, ascending
    for k in range(1, num_rounds + 1):
        flat = torch.cat([score.flatten().to(place.device) for score in scores()])
        order = left[flat[left].argsort(stable=True)]
        place[order] = torch.arange(num_weights - len(order), num_weights, dtype=place.dtype, device=place.device)
        left = order[len(order) - round(density ** (k / num_rounds) * num_weights) :].sort().values
        kept = torch.zeros_like(place).index_fill_(0, left, 1)
        with torch.no_grad():
            for leaf, part in zip(leaves, kept.split([leaf.numel() for leaf in leaves]), strict=True):
                leaf.mul_(part.view_as(leaf).to(leaf.device))
    parts = place.split([leaf.numel() for leaf in leaves])
    return [part.view_as(leaf).to(leaf.device) for part, leaf in zip(parts, leaves, strict=True)]


def _absolute(name: str, tensor: Tensor) -> Tensor:
    """A float64 copy of the absolute values; 0 for what a layer adds; other buffers (counts, indices) as they are."""
    if not tensor.is_floating_point():
        return tensor
    absolute = tensor.detach().to(torch.float64, copy=True).abs_()
    return absolute.zero_() if name.endswith(("bias", "running_mean")) else absolute
