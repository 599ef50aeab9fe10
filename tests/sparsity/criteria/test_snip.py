import math

import pytest
import torch
from torch import nn

from sparsity import masks
from sparsity.criteria.gradient_magnitude import gradient_magnitude
from sparsity.criteria.snip import snip


def test_is_the_share_of_the_sensitivity_over_all_tensors():
    weights = [torch.tensor([2.0, -3.0]), torch.tensor([[4.0]])]
    gradients = [torch.tensor([-5.0, 0.5]), torch.tensor([[1.125]])]
    a, b = snip(weights, gradients=gradients)
    assert a.tolist() == [0.625, 0.09375]  # |w g| = 10, 1.5, 4.5: of 16
    assert b.tolist() == [[0.28125]]


def test_is_the_derivative_by_a_mask_of_ones():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    x, weights = torch.randn(9, 4, dtype=torch.float64), [net[0].weight, net[2].weight]
    ones = [torch.ones_like(w, requires_grad=True) for w in weights]
    parts = {"0.weight": ones[0] * weights[0].detach(), "2.weight": ones[1] * weights[1].detach()}
    loss = torch.func.functional_call(net, parts, (x,)).square().mean()
    sensitivity = [g.abs() for g in torch.autograd.grad(loss, ones)]
    total = sum(s.sum() for s in sensitivity)
    scores = snip(weights, gradients=torch.autograd.grad(net(x).square().mean(), weights))
    for score, expected in zip(scores, sensitivity, strict=True):
        torch.testing.assert_close(score, expected / total)


def test_prunes_as_gradient_magnitude_does():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(20, 30, generator=generator), torch.randn(50, generator=generator)]
    gradients = [torch.randn(w.shape, generator=generator) for w in weights]
    ours, theirs = snip(weights, gradients=gradients), gradient_magnitude(weights, gradients=gradients)
    for scope, level in (("global", 0.9), ("uniform", 0.5)):
        pairs = zip(masks.prune(ours, level, scope), masks.prune(theirs, level, scope), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_without_any_gradient_all_scores_are_zero():
    assert snip([torch.ones(3)], gradients=[torch.zeros(3)])[0].tolist() == [0.0, 0.0, 0.0]


def test_many_products_of_float16_are_summed():
    """Their sum is above 65504, the largest number of float16."""
    (score,) = snip([torch.ones(1000, 1000).half()], gradients=[torch.ones(1000, 1000).half()])
    assert score.unique().tolist() == [pytest.approx(1e-6)]


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e38])
def test_a_sum_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"^snip: the sum of all \|w g\| must be finite .*, got (inf|nan)$"):
        snip([torch.tensor([10.0, 1.0])], gradients=[torch.tensor([value, 1.0])])


def test_a_missing_gradient_is_named():
    with pytest.raises(ValueError, match=r"gradients must be one tensor for each weight, .*got None for weight 0"):
        snip([torch.ones(3)], gradients=[None])
