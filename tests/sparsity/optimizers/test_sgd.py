import numpy as np
import pytest
import torch

from sparsity.optimizers.sgd import SGD


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_by_hand(nesterov):
    w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = SGD([w], 0.1, momentum=0.8, weight_decay=0.01, nesterov=nesterov)
    expected, v = np.array([1.0, -2.0]), np.zeros(2)
    for _ in range(4):
        w.grad = 3 * w.detach()
        optimizer.step()
        g = 3 * expected + 0.01 * expected
        v = 0.8 * v + g
        expected = expected - 0.1 * (g + 0.8 * v if nesterov else v)
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-14)


def test_momentum_is_0_9_by_default():
    assert SGD([torch.ones(1)], 0.1).param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_refuses_a_momentum_outside_its_range(momentum):
    with pytest.raises(ValueError, match=rf"^SGD: momentum must be in \[0, 1\) .*, got {momentum}$"):
        SGD([torch.ones(1)], 0.1, momentum=momentum)


def test_refuses_nesterov_without_momentum():
    with pytest.raises(ValueError, match=r"^SGD: momentum must be > 0 \(nesterov looks ahead along it\), got 0$"):
        SGD([torch.ones(1)], 0.1, momentum=0, nesterov=True)
