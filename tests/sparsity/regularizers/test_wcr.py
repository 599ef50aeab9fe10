import math

import numpy as np
import pytest
import torch

from sparsity import _kernels, closed_form
from sparsity.regularizers.wcr import WCR


def numpy_wcr(w, smooth, eps):
    """Value and gradient by the paper's formulas, in float64."""
    a = np.sqrt(w**2 + smooth)
    V = np.mean(a**2) - np.mean(a) ** 2
    return 1 / (V + eps), -(2 / w.size) * (1 - a.mean() / a) * w / (V + eps) ** 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -3.0], 1.0),  # magnitudes 1 and 3: variance 1
        ([0.0, 4.0], 1 / 4),  # magnitudes 0 and 4: variance 4
        ([0.0, 0.0, 0.0, 4.0], 1 / 3),  # 16/4 - 1
    ],
)
def test_matches_hand_computation(values, expected):
    w = torch.tensor(values, dtype=torch.float64)
    assert WCR([w], smooth=1e-30, eps=1e-18)().item() == pytest.approx(expected)


def test_sums_over_tensors_by_hand():
    weights = [torch.tensor([1.0, -3.0]), torch.tensor([0.0, 4.0])]
    assert WCR(weights, smooth=1e-30)().item() == pytest.approx(1.25, rel=1e-6)


@pytest.mark.parametrize(("smooth", "eps"), [(1e-8, 1e-8), (0.5, 0.1)])
def test_matches_numpy(smooth, eps):
    w = np.random.default_rng(0).normal(size=(7, 5)) * 0.3
    value, grad = numpy_wcr(w, smooth, eps)
    t = torch.tensor(w, requires_grad=True)
    R = WCR([t], smooth=smooth, eps=eps)()
    R.backward()
    assert R.item() == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(t.grad.numpy(), grad, rtol=1e-10)


def test_matches_autograd_on_the_plain_formula():
    torch.manual_seed(0)
    w = torch.randn(6, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    a = (w.square() + 1e-8).sqrt()
    plain = 1 / (a.square().mean() - a.mean() ** 2 + 1e-8)
    (expected,) = torch.autograd.grad(plain, w)
    (grad,) = torch.autograd.grad(WCR([w])(), w)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("by", ["kernel", "closed form", "blocks", "formula"])
@pytest.mark.parametrize("shape", [(3, 3), (16, 16, 3, 3), (), (300, 50)])
def test_equal_magnitudes_have_no_gradient(monkeypatch, by, shape):
    """Their mean is not exactly 0.1 if it is the sum of all divided by n."""
    if by != "kernel":
        monkeypatch.setattr(_kernels, "takes", lambda weight: False)
    if by == "blocks":
        monkeypatch.setattr(closed_form, "BLOCK", 100)
    w = torch.full(shape, 0.1, requires_grad=True)
    R = WCR([w])
    penalty = R.formula(w) if by == "formula" else R()
    penalty.backward()
    assert penalty.item() == pytest.approx(1e8)  # 1 / eps
    assert not w.grad.any()


def test_concentration_form_of_equation_4():
    w = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    H = w.abs().sum() ** 2 / (50 * w.square().sum())
    V = w.square().sum() / 50 * (1 - H)
    assert WCR([w], smooth=1e-30, eps=1e-18)().item() == pytest.approx(1 / V.item(), rel=1e-12)


def test_small_weights_shrink_and_large_ones_grow():
    w = torch.tensor([0.1, -0.1, 2.0, -2.0], requires_grad=True)
    WCR([w])().backward()
    step = -w.grad * w.detach().sign()  # how gradient descent changes the magnitudes
    assert (step[:2] < 0).all()
    assert (step[2:] > 0).all()


@pytest.mark.parametrize("values", [[1.0], [0.3] * 1000, [-0.3, 0.3, 0.3], [3e3, -3e3], [0.0] * 5])
def test_equal_magnitudes_are_exact_in_float32(values):
    w = torch.tensor(values, requires_grad=True)  # the variance is 0: R = 1/eps, and no direction is better
    R = WCR([w])()
    R.backward()
    assert R.item() == pytest.approx(1e8, rel=1e-5)
    assert w.grad.abs().max() <= 1e-3 * 1e16 * 1e-7 * abs(values[0])  # of the scale 1/eps^2: rounding, at most


def test_float32_keeps_its_digits_at_nearly_equal_magnitudes():
    w = 1 + 1e-3 * torch.randn(4096, generator=torch.Generator().manual_seed(0))  # V is 1e-6 of the mean square
    value, grad = numpy_wcr(w.double().numpy(), 1e-8, 1e-8)
    w.requires_grad_()
    R = WCR([w])()
    R.backward()
    assert R.item() == pytest.approx(value, rel=1e-4)
    assert np.linalg.norm(w.grad.numpy() - grad) < 1e-3 * np.linalg.norm(grad)


@pytest.mark.parametrize("has_kernel", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e-9, 0.1])
def test_gradients_are_finite_at_the_smallest_arguments(monkeypatch, scale, has_kernel):
    if not has_kernel:
        monkeypatch.setattr(_kernels, "takes", lambda weight: False)
    for values in ([1.0] * 9, [0.0, 1.0, 2.0]):
        w = (scale * torch.tensor(values)).requires_grad_()
        WCR([w], smooth=1e-36, eps=1e-18)().backward()
        assert w.grad.isfinite().all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [(a, v) for a in ("smooth", "eps") for v in (0.0, -1e-8, math.nan, math.inf)] + [("smooth", 1e-46), ("eps", 1e-24)],
)
def test_refuses_useless_arguments(argument, value):
    with pytest.raises(
        ValueError, match=rf"^WCR: {argument} must be >= 1e-\d\d and finite \(float32 .*\), got {value}$"
    ):
        WCR([torch.ones(2)], **{argument: value})


@pytest.mark.parametrize("std", [0.3, 0.1])
def test_a_larger_eps_changes_the_gradient_by_the_tolerance_that_is_stated(std):
    """2 eps / V where the variance is ordinary; the direction stays."""
    w = torch.randn(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul_(std).requires_grad_()
    variance = w.detach().abs().var(correction=0).item()
    small, large = (torch.autograd.grad(WCR([w], eps=eps)(), w)[0] for eps in (1e-8, 1e-4))
    difference = ((large - small).norm() / small.norm()).item()
    assert difference == pytest.approx(2 * 1e-4 / variance, rel=0.1)
    assert torch.cosine_similarity(small, large, dim=0).item() == pytest.approx(1, abs=1e-9)
