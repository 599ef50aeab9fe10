import torch

from sparsity.regularizers.none import NoRegularizer


def test_is_zero_and_gives_no_gradient():
    w = torch.tensor([3.0, -4.0], dtype=torch.float64, requires_grad=True)
    R = NoRegularizer([w])
    assert R().item() == 0.0
    assert R().dtype is torch.float64
    (w.square().sum() + 1e3 * R()).backward()
    assert w.grad.tolist() == [6.0, -8.0]


def test_is_on_the_weights_device():
    assert NoRegularizer([torch.ones(2, device="meta")])().device.type == "meta"
