import weakref

import numpy as np
import pytest
import torch

from sparsity.optimizers.sam import SAM
from sparsity.optimizers.sgd import SGD

A, B = np.array([1.0, 4.0, 0.5]), np.array([2.0, 3.0])  # loss = (A w^2)/2 + (B (v - 1)^2)/2, two parameters


def problem():
    w = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([0.5, 0.0], dtype=torch.float64, requires_grad=True)

    def loss():
        return (torch.tensor(A) * w**2).sum() / 2 + (torch.tensor(B) * (v - 1) ** 2).sum() / 2

    return w, v, loss


def closure_of(optimizer, loss, calls=None):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        if calls is not None:
            calls.append(value.item())
        return value.detach()

    return closure


def numpy_sam(rho, adaptive, lr, momentum, decay, num_steps):
    x, buffer = np.array([1.0, -2.0, 0.3, 0.5, 0.0]), np.zeros(5)
    scale, center = np.concatenate([A, B]), np.array([0, 0, 0, 1, 1])
    losses = []
    for _ in range(num_steps):
        losses.append((scale * (x - center) ** 2).sum() / 2)
        g = scale * (x - center)
        e = rho * x**2 * g / np.linalg.norm(np.abs(x) * g) if adaptive else rho * g / np.linalg.norm(g)
        g = scale * (x + e - center)
        buffer = momentum * buffer + g + decay * x  # the decay acts on w, not on w + e
        x = x - lr * buffer
    return x, losses


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_steps_by_hand(adaptive, groups):
    w, v, loss = problem()
    params = [w, v] if groups == 1 else [{"params": [w]}, {"params": [v]}]  # one norm over both groups
    optimizer = SAM(params, 0.05, rho=0.3, adaptive=adaptive, momentum=0.9, weight_decay=0.02)
    losses = [optimizer.step(closure_of(optimizer, loss)).item() for _ in range(5)]
    expected, expected_losses = numpy_sam(0.3, adaptive, 0.05, 0.9, 0.02, 5)
    np.testing.assert_allclose(torch.cat([w, v]).detach().numpy(), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)  # of the unperturbed weights


def test_takes_two_gradients_and_one_when_off():
    for rho, num_calls in ((0.1, 2), (0.0, 1)):
        w, v, loss = problem()
        optimizer = SAM([w, v], 0.05, rho=rho)
        calls = []
        optimizer.step(closure_of(optimizer, loss, calls))
        assert len(calls) == num_calls


def test_second_gradient_is_taken_at_distance_rho():
    w, v, loss = problem()
    optimizer = SAM([w, v], 0.0, rho=0.25)
    seen = []

    def closure():
        seen.append(torch.cat([w, v]).detach().clone())
        return closure_of(optimizer, loss)()

    optimizer.step(closure)
    assert (seen[1] - seen[0]).norm().item() == pytest.approx(0.25, rel=1e-12)
    assert torch.equal(torch.cat([w, v]), seen[0])  # lr 0: back where it was


def test_a_group_has_its_own_rho():
    w, v, loss = problem()
    optimizer = SAM([{"params": [w], "rho": 0.0}, {"params": [v], "rho": 0.5}], 0.0)
    seen = []

    def closure():
        seen.append((w.detach().clone(), v.detach().clone()))
        return closure_of(optimizer, loss)()

    optimizer.step(closure)
    assert torch.equal(seen[0][0], seen[1][0])
    g = torch.cat([torch.tensor(A) * seen[0][0], torch.tensor(B) * (seen[0][1] - 1)])
    torch.testing.assert_close(seen[1][1] - seen[0][1], 0.5 * g[3:] / g.norm())


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_first_gradient_is_freed_before_the_second_is_computed(adaptive):
    w, v, loss = problem()
    optimizer = SAM([{"params": [w]}, {"params": [v]}], 0.05, rho=0.1, adaptive=adaptive)
    first = []

    def closure():
        optimizer.zero_grad()
        assert not any(gradient() is not None for gradient in first)
        value = loss()
        value.backward()
        first.extend(weakref.ref(p.grad) for p in (w, v))
        return value.detach()

    optimizer.step(closure)
    assert len(first) == 4


def test_adaptive_is_scale_invariant():
    def perturbed_loss(scale):
        w = (torch.tensor([1.0, -2.0], dtype=torch.float64) * scale).requires_grad_()
        optimizer = SAM([w], 0.0, rho=0.3, adaptive=True)
        calls = []
        optimizer.step(closure_of(optimizer, lambda: ((w / scale - 3) ** 2).sum(), calls))
        return calls[1]

    assert perturbed_loss(1000.0) == pytest.approx(perturbed_loss(1.0), rel=1e-12)


def test_a_zero_gradient_perturbs_nothing():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    optimizer = SAM([w], 0.1, rho=1e3)
    optimizer.step(closure_of(optimizer, lambda: (0 * w).sum()))
    assert w.tolist() == [1.0, 2.0]


def test_keyword_typos_in_the_base_name_all_arguments():
    message = (
        r"^SAM: arguments must be among lr, adaptive, base, fused, momentum, nesterov, rho, weight_decay, got 'moment'$"
    )
    with pytest.raises(ValueError, match=message):
        SAM([torch.ones(1)], 0.1, moment=0.9)
    with pytest.raises(ValueError, match=r"^SAM: arguments must be among .*betas.*, got 'momentum'$"):
        SAM([torch.ones(1)], 0.1, base="adamw", momentum=0.9)


def test_sgd_is_the_default_base():
    assert isinstance(SAM([torch.ones(1)], 0.1).base, SGD)
