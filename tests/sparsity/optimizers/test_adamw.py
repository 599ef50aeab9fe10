import numpy as np
import pytest
import torch

from sparsity.optimizers.adamw import AdamW


def test_steps_by_hand():
    w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = AdamW([w], 0.1, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.05)
    expected, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t in range(1, 5):
        w.grad = 3 * w.detach()
        optimizer.step()
        g = 3 * expected
        m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g**2
        expected = expected * (1 - 0.1 * 0.05)
        expected = expected - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-6)
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-12)


def test_defaults_are_those_of_lora_training():
    group = AdamW([torch.ones(1)], 0.1).param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.0)


@pytest.mark.parametrize("betas", [(0.9, 1.0), (-0.1, 0.9), (0.9,)])
def test_refuses_betas_outside_their_range(betas):
    with pytest.raises(ValueError, match=r"^AdamW: betas must be two numbers in \[0, 1\), got "):
        AdamW([torch.ones(1)], 0.1, betas=betas)


def test_refuses_a_negative_eps():
    with pytest.raises(ValueError, match=r"^AdamW: eps must be >= 0 and finite, got -1e-08$"):
        AdamW([torch.ones(1)], 0.1, eps=-1e-8)
