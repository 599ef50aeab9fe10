import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsity.criteria._calibration import calibrating, needs_data, parameter_names

__all__ = ["grasp"]


@needs_data
def grasp(
    weights: list[Tensor],
    *,
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    temperature: float = 200.0,
) -> list[Tensor]:
    """score = w * (H g), half of what |g|^2 loses to first order when w is removed; g and H of the weights given.

    Removing w changes the gradient flow |g|^2 by -2 w (H g). The source's score is -w (H g), and it removes the
    highest; ours has the other sign, so that a higher score is kept longer. It has a sign: weights whose removal makes
    the gradient larger go first.
    Source: Wang, Zhang & Grosse, "Picking winning tickets before training by preserving gradient flow", ICLR 2020, and
    its code (github.com/alecwangcq/GraSP): the loss is of the outputs / temperature, 200 there. That keeps softmax
    gradients alive in a confident network. Departures: one batch instead of 25 images a class, BatchNorm in evaluation
    mode, no new initialization of linear layers, no division by |sum of scores| (it changes no ranking).
    weights: parameters of the model that require gradients. model, batch, loss_fn: see sparsity/criteria/__init__.py;
    the model must return a tensor. temperature: > 0, 1 for the loss as it is.
    Returns new tensors of the same shapes, in units of g^2, without a graph; 0 for weights the loss ignores.
    ValueError if data is missing, a weight is not the model's, the batch does not go through, or temperature <= 0.
    Cost: 2 backward passes, the first with its graph kept; g, H g and scores, 3 x the weights, beside the graph.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"grasp: temperature must be > 0 and finite (it divides the outputs), got {temperature}")
    parameter_names("grasp", model, weights)
    scaling = model.register_forward_hook(lambda module, args, output: output / temperature)
    try:
        with calibrating("grasp"):
            loss = loss_fn(model, batch)
            gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
            flow = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
            products = torch.autograd.grad(flow, weights, materialize_grads=True)
    finally:
        scaling.remove()
    return [weight.detach() * product for weight, product in zip(weights, products, strict=True)]
