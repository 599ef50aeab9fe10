"""One update of SAM with a penalty and clipping, written out from the formulas."""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["make_network", "sam_step_by_hand"]


def make_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def sam_step_by_hand(model, inputs, labels, *, lam, rho, lr, max_norm):
    """The parameters after one update on a batch, by name.

    g = dL/dw + lam dR/dw; e = rho g / |g|; g' the same at w + e, scaled to max_norm if it is longer; w - lr g'. R is
    Hoyer-square, (sum |w|)^2 / sum w^2, over the tensors of two axes or more.
    """
    start = {name: p.detach().clone() for name, p in model.named_parameters()}

    def gradients(values):
        values = {name: value.clone().requires_grad_() for name, value in values.items()}
        loss = F.cross_entropy(torch.func.functional_call(model, values, (inputs,)), labels)
        weights = [w for w in values.values() if w.ndim > 1]
        penalty = sum(w.abs().sum() ** 2 / w.square().sum() for w in weights)
        return dict(zip(values, torch.autograd.grad(loss + lam * penalty, list(values.values())), strict=True))

    def norm(vectors):
        return sum(v.square().sum() for v in vectors.values()).sqrt()

    g = gradients(start)
    moved = {name: w + rho * g[name] / norm(g) for name, w in start.items()}
    g = gradients(moved)
    scale = min(1.0, max_norm / norm(g).item())
    return {name: w - lr * scale * g[name] for name, w in start.items()}
