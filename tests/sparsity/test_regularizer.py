import pytest
import torch

from sparsity.regularizer import Regularizer
from sparsity.regularizers.l1 import L1


class Squares(Regularizer):
    """A regularizer in plain PyTorch, with a gate of its own."""

    def __init__(self, weights):
        super().__init__(weights)
        self.gate = torch.nn.Parameter(torch.tensor(2.0))

    def penalty(self, weight):
        return self.gate * weight.square().sum()


def test_a_plain_regularizer_defines_penalty_and_may_own_parameters():
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
def test_refuses_invalid_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        L1(weights)


def test_refuses_a_weight_twice():
    tied, other = torch.ones(2, 3), torch.ones(2, 3)  # equal values are no reason to refuse
    L1([tied, other])
    with pytest.raises(
        ValueError, match=r"^L1: weights must be different tensors .*, got weight 2 of shape \(2, 3\) t"
    ):
        L1([tied, other, tied])


def test_a_subclass_without_penalty_says_so():
    with pytest.raises(NotImplementedError, match=r"^Regularizer must define penalty\(weight\)$"):
        Regularizer([torch.ones(1)])()
