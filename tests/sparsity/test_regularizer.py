import pytest
import torch

from sparsity import regularizer
from sparsity.regularizer import ClosedForm, Regularizer
from sparsity.regularizers.hoyer_square import HoyerSquare
from sparsity.regularizers.l1 import L1
from sparsity.regularizers.wcr import WCR


class Squares(Regularizer):
    """A regularizer in plain PyTorch, with a gate of its own."""

    def __init__(self, weights):
        super().__init__(weights)
        self.gate = torch.nn.Parameter(torch.tensor(2.0))

    def penalty(self, weight):
        return self.gate * weight.square().sum()


def test_a_plain_regularizer_needs_penalty_alone_and_may_own_parameters():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    R = Squares([w, torch.tensor([[3.0]])])
    assert R().item() == 28.0
    R().backward()
    assert w.grad.tolist() == [4.0, 8.0]
    assert R.gate.grad.item() == 14.0
    assert list(R.state_dict()) == ["gate"]  # the weights are held, not owned


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(2, 3), r"^L1: weights must be a list of tensors, got one of shape \(2, 3\)$"),
        (
            [torch.ones(2, dtype=torch.int64)],
            r"^L1: weights must be floating-point .*, got torch.int64 of shape \(2,\)$",
        ),
        ([torch.ones(0, 3)], r"^L1: weights must be .* at least one element, got torch.float32 of shape \(0, 3\)$"),
        ([None], r"^L1: weights must be floating-point tensors with at least one element, got None$"),
    ],
)
def test_refuses_what_is_not_a_list_of_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        L1(weights)


def test_missing_definitions_are_named():
    with pytest.raises(NotImplementedError, match=r"^Regularizer must define penalty\(weight\)$"):
        Regularizer([torch.ones(1)])()
    with pytest.raises(AttributeError, match="statistics"):
        ClosedForm([torch.ones(1)])()


@pytest.mark.parametrize("method", [L1, WCR, HoyerSquare])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided"])
def test_blocks_give_what_the_whole_gives(monkeypatch, method, layout):
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
    monkeypatch.setattr(regularizer, "BLOCK", 100)  # a few rows a block, the last one smaller
    assert len(regularizer._blocks(w)) > 1
    blocks = method([w])()
    (blocks_grad,) = torch.autograd.grad(blocks, w)
    torch.testing.assert_close(blocks, whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(blocks_grad, whole_grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("method", [L1, WCR, HoyerSquare])
def test_float32_agrees_with_float64_on_a_large_layer(method):
    torch.manual_seed(0)
    w = (torch.randn(1024, 1100) * 0.02).requires_grad_()  # more than one block
    exact = w.detach().double().requires_grad_()
    (grad,) = torch.autograd.grad(method([w])(), w)
    (exact_grad,) = torch.autograd.grad(method([exact])(), exact)
    assert method([w])().item() == pytest.approx(method([exact])().item(), rel=1e-6)
    assert ((grad - exact_grad).norm() / exact_grad.norm()).item() < 2e-6


@pytest.mark.parametrize("method", [L1, WCR, HoyerSquare])
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
