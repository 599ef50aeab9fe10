import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsity.criteria._checks import calibrating, needs_data, parameter_names

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
    """Gradient signal preservation: score = w * (H g).

    g is the gradient and H the Hessian of the loss with respect to the given weights. Removing w changes the gradient
    flow |g|^2 by -2 w (H g) to first order. The reference scores with -w (H g) and removes the highest; here the sign
    is opposite, so that a higher score is kept longer. Scores can be negative: weights whose removal increases the
    gradient flow are removed first.

    The loss is that of the outputs divided by the temperature, which keeps the gradients of a confident network's
    softmax from vanishing.

    Args:
        weights: Parameters of the model that require gradients.
        model: The model in evaluation mode; its output is a tensor.
        batch: One calibration batch.
        loss_fn: Function (model, batch) -> loss. It calls `model(...)`, not a method of it, because the temperature
            acts on this call's output.
        temperature: Divides the outputs, > 0; 1 leaves the loss as it is.

    Returns:
        New tensors of the same shapes, of at least float32, in units of g^2; 0 for weights that do not affect the loss.

    Raises:
        ValueError: If data is missing, a weight is not the model's or frozen, the batch does not fit the model, the
            loss has no graph, loss_fn does not call the model, or temperature is not positive and finite.

    Reference:
        Wang, Zhang & Grosse, "Picking winning tickets before training by preserving gradient flow", ICLR 2020, and its
        code (github.com/alecwangcq/GraSP), whose temperature is 200. Departures: one batch instead of 25 images per
        class, BatchNorm in evaluation mode, no new initialization of linear layers, and no division by |sum of scores|,
        which changes no ranking.

    Cost:
        2 backward passes, the first with its graph kept. 3 x the weights of memory (g, H g and scores) beside the
        graph.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"grasp: temperature must be > 0 and finite (it divides the outputs), got {temperature}")
    for name, weight in zip(parameter_names("grasp", model, weights), weights, strict=True):
        if not weight.requires_grad:
            raise ValueError(f"grasp: weights must require gradients, got the frozen {name}")
    if not weights:
        return []
    calls = []

    def scaled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        calls.append(module)
        return output / temperature

    scaling = model.register_forward_hook(scaled)
    try:
        with calibrating("grasp"):
            loss = loss_fn(model, batch)
    finally:
        scaling.remove()
    if not calls:
        raise ValueError("grasp: loss_fn must call model(...), whose output the temperature divides, got no call")
    if not loss.requires_grad:
        raise ValueError("grasp: loss_fn must return a differentiable loss, got one without a graph")
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
        flow = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
        if not flow.requires_grad:  # no gradient depends on a weight, so H is 0
            return [torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) for w in weights]
        products = torch.autograd.grad(flow, weights, materialize_grads=True)
    return [
        weight.detach().to(torch.promote_types(weight.dtype, torch.float32)) * product
        for weight, product in zip(weights, products, strict=True)
    ]
