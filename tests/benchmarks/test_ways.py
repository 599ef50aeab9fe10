"""benchmarks/_ways.py: ways that are compared compute the same gradient."""

import pytest
import torch

from benchmarks._ways import WAYS


@pytest.mark.parametrize("way", [name for name in WAYS if "compile" not in name])  # which takes many seconds
def test_it_adds_the_gradient_of_plain_autograd_in_float64(way):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(0.1 * torch.randn(size)) for size in ((16, 8, 3, 3), (10, 5), (600, 600))]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    WAYS[way](weights, 1e-3)
    for weight in weights:
        w = weight.detach().double().requires_grad_()
        (1e-3 / ((w * w + 1e-8).sqrt().var(correction=0) + 1e-8)).backward()
        assert (weight.grad - 1 - w.grad).abs().max() < 1e-3 * w.grad.abs().max() + 1e-6
