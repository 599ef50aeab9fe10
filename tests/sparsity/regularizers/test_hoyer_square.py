import math

import pytest
import torch

from sparsity import _kernels
from sparsity.regularizers.hoyer_square import HoyerSquare


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, -2.0, 2.0, 2.0], 4.0),  # n equal magnitudes: the maximum, n
        ([3.0, 4.0], 49 / 25),  # (3 + 4)^2 / (9 + 16)
        ([5.0, 0.0, 0.0], 1.0),  # one weight left: the minimum of a tensor that is not zero
        ([0.0, 0.0], 0.0),  # all pruned: finite, not nan
    ],
)
def test_matches_hand_computation(values, expected):
    assert HoyerSquare([torch.tensor(values)])().item() == pytest.approx(expected)


def test_is_scale_invariant():
    w = torch.tensor([3.0, -4.0, 1.0], dtype=torch.float64)
    assert HoyerSquare([1000 * w])().item() == pytest.approx(HoyerSquare([w])().item(), rel=1e-12)


def test_gradient_matches_the_papers():
    w = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    HoyerSquare([w], eps=1e-30)().backward()
    # 2 sign(w_j) sum|w| (sum w^2 - |w_j| sum|w|) / (sum w^2)^2
    assert w.grad.tolist() == pytest.approx([2 * 7 * (25 - 21) / 625, -2 * 7 * (25 - 28) / 625])


@pytest.mark.parametrize("has_kernel", [True, False])
def test_gradients_are_finite_at_the_smallest_eps(monkeypatch, has_kernel):
    if not has_kernel:
        monkeypatch.setattr(_kernels, "takes", lambda weight: False)
    for value in (0.0, 1e-30, 1e-18, 1e-15, 1.0):
        w = torch.full((10_000,), value, requires_grad=True)
        HoyerSquare([w], eps=1e-30)().backward()
        assert w.grad.isfinite().all()


@pytest.mark.parametrize("has_kernel", [True, False])
def test_weights_whose_squares_overflow_have_no_finite_penalty(monkeypatch, has_kernel):
    """A penalty of 0 would let a network that diverges look sparse."""
    if not has_kernel:
        monkeypatch.setattr(_kernels, "takes", lambda weight: False)
    assert HoyerSquare([torch.tensor([1e20, 1.0])])().isnan()


@pytest.mark.parametrize("eps", [0.0, -1.0, 1e-60, math.nan, math.inf])
def test_refuses_a_useless_eps(eps):
    with pytest.raises(ValueError, match=rf"^HoyerSquare: eps must be >= 1e-30 and finite \(.*\), got {eps}$"):
        HoyerSquare([torch.ones(2)], eps=eps)
