"""The closed forms against the definitions, `formula`, and autograd."""

import pytest
import torch

import sparsity
from sparsity import closed_form
from sparsity.closed_form import ClosedForm

METHODS = [
    cls
    for cls in (sparsity.load("regularizers", name) for name in sparsity.names("regularizers"))
    if issubclass(cls, ClosedForm)
]
methods = pytest.mark.parametrize("method", METHODS)


@methods
@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 2, 2), (1,), ()])
def test_value_and_gradient_are_those_of_the_formula(method, shape):
    w = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    R = method([w])
    expected = R.formula(w)
    (expected_gradient,) = torch.autograd.grad(expected, w)
    (gradient,) = torch.autograd.grad(R(), w)
    torch.testing.assert_close(R(), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-12)


@methods
def test_the_kernels_agree_with_the_formula(method):
    """float32 on a CPU: the kernels, where a compiler is there."""
    w = (torch.randn(300, 1000, generator=torch.Generator().manual_seed(0)) * 0.02).requires_grad_()
    value = method([w]).backward(0.3)
    exact = w.detach().double().requires_grad_()
    expected = method([exact]).formula(exact)
    (expected_gradient,) = torch.autograd.grad(0.3 * expected, exact)
    assert value.item() == pytest.approx(expected.item(), rel=2e-6)
    assert (w.grad - expected_gradient).norm() <= 2e-6 * expected_gradient.norm()


@methods
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided"])
def test_blocks_give_the_result_of_the_whole_tensor(monkeypatch, method, layout):
    torch.manual_seed(0)
    w = torch.randn(23, 4, 3, 3, dtype=torch.float64)
    w = {
        "contiguous": w,
        "channels_last": w.to(memory_format=torch.channels_last),
        "transposed": w.transpose(0, 1),
        "strided": torch.randn(23, 8, 3, 3, dtype=torch.float64)[:, ::2],
    }[layout].requires_grad_()
    whole = method([w])()
    (whole_grad,) = torch.autograd.grad(whole, w)
    monkeypatch.setattr(closed_form, "BLOCK", 100)  # a few rows a block, the last one smaller
    assert len(closed_form._blocks(w)) > 1
    blocks = method([w])()
    (blocks_grad,) = torch.autograd.grad(blocks, w)
    torch.testing.assert_close(blocks, whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(blocks_grad, whole_grad, rtol=1e-12, atol=1e-15)


@methods
def test_float32_agrees_with_float64_on_a_large_layer(method):
    torch.manual_seed(0)
    w = (torch.randn(1024, 1100) * 0.02).requires_grad_()  # more than one block
    exact = w.detach().double().requires_grad_()
    (grad,) = torch.autograd.grad(method([w])(), w)
    (exact_grad,) = torch.autograd.grad(method([exact])(), exact)
    assert method([w])().item() == pytest.approx(method([exact])().item(), rel=1e-6)
    assert ((grad - exact_grad).norm() / exact_grad.norm()).item() < 2e-6


@methods
def test_half_precision_weights_are_summed_in_float32(method):
    torch.manual_seed(0)
    w = torch.randn(64, 100).bfloat16().requires_grad_()
    penalty = method([w])()
    assert penalty.dtype is torch.float32
    assert penalty.item() == pytest.approx(method([w.detach().double()])().item(), rel=1e-6)
    penalty.backward()
    assert w.grad.dtype is torch.bfloat16
    same = w.detach().float().requires_grad_()
    method([same])().backward()
    assert torch.equal(w.grad, same.grad.bfloat16())
