import numpy as np
import pytest
import torch

from sparsity.optimizers.s2sam import S2SAM

A = np.array([1.0, 4.0, 0.5])  # loss = (A w^2)/2


def problem(**arguments):
    w = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64, requires_grad=True)
    optimizer = S2SAM([w], 0.05, **arguments)

    def closure():
        optimizer.zero_grad()
        loss = (torch.tensor(A) * w**2).sum() / 2
        loss.backward()
        return loss.detach()

    return w, optimizer, closure


def test_steps_by_hand():
    w, optimizer, closure = problem(rho=0.3, momentum=0.9, weight_decay=0.02)
    x, buffer, previous = np.array([1.0, -2.0, 0.3]), np.zeros(3), None
    for _ in range(5):
        loss = optimizer.step(closure).item()
        e = 0.3 * previous / np.linalg.norm(previous) if previous is not None else 0.0
        assert loss == pytest.approx((A * (x + e) ** 2).sum() / 2, rel=1e-12)  # where the gradient is taken
        previous = A * (x + e)
        buffer = 0.9 * buffer + previous + 0.02 * x
        x = x - 0.05 * buffer
        np.testing.assert_allclose(w.detach().numpy(), x, rtol=1e-12)


def test_steps_by_hand_with_adamw():
    w, optimizer, closure = problem(rho=0.3, base="adamw", weight_decay=0.02)
    x, m, v, e = np.array([1.0, -2.0, 0.3]), 0.0, 0.0, 0.0
    for t in range(1, 5):
        optimizer.step(closure)
        g = A * (x + e)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x * (1 - 0.05 * 0.02) - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        e = 0.3 * g / np.linalg.norm(g)
        np.testing.assert_allclose(w.detach().numpy(), x, rtol=1e-12)


def test_the_gradient_moves_into_the_state():
    w, optimizer, closure = problem(rho=0.3)
    seen = []

    def watched():
        loss = closure()
        seen.append(w.grad.data_ptr())
        return loss

    optimizer.step(watched)
    assert w.grad is None
    kept = optimizer.state[w]["previous_grad"]
    assert kept.data_ptr() == seen[0]  # not a copy
    optimizer.zero_grad(set_to_none=False)
    assert kept.tolist() == pytest.approx((A * [1.0, -2.0, 0.3]).tolist())


def test_a_parameter_without_a_gradient_last_time_is_not_perturbed():
    w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    optimizer = S2SAM([w, v], 0.0, rho=0.5, base="adamw")
    seen = []

    def closure(params):
        optimizer.zero_grad()
        seen.append([p.item() for p in (w, v)])
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss.detach()

    for params in ([w], [v], [w, v], [w, v]):
        optimizer.step(lambda params=params: closure(params))
    half = 0.5 / np.sqrt(2.5**2 + 1)  # at step 2 v's gradient is 2 v, v = 2.5 at step 2
    assert seen[0] == [1.0, 2.0]
    assert seen[1] == [1.5, 2.0]
    assert seen[2] == [1.0, 2.5]
    assert seen[3] == pytest.approx([1.0 + half * 1.0, 2.0 + half * 2.5])
