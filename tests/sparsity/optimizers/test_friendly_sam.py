import numpy as np
import pytest
import torch

import sparsity
from sparsity.optimizers.friendly_sam import FriendlySAM
from sparsity.optimizers.sam import SAM

SCALE, CENTER = np.array([1.0, 4.0, 0.5, 2.0, 3.0]), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
START = np.array([1.0, -2.0, 0.3, 0.5, 0.0])


def gradient(x, step):
    """Of a quadratic whose center moves with the step, as the batch does."""
    return SCALE * (x - CENTER - 0.3 * np.cos(step + np.arange(5)))


def problem(dtype=torch.float64):
    return [torch.tensor(part, dtype=dtype, requires_grad=True) for part in (START[:3], START[3:])]


def closure_of(optimizer, params, step):
    def closure():
        optimizer.zero_grad()
        x = torch.cat(params)
        center = torch.tensor(CENTER + 0.3 * np.cos(step + np.arange(5)), dtype=x.dtype)
        loss = (torch.tensor(SCALE, dtype=x.dtype) * (x - center) ** 2).sum() / 2
        loss.backward()
        return loss.detach()

    return closure


def train(optimizer, params, num_steps):
    path = []
    for step in range(num_steps):
        optimizer.step(closure_of(optimizer, params, step))
        path.append(torch.cat(params).detach().numpy().copy())
    return path


def by_numpy(num_steps, rho, sigma, beta, lr, momentum, decay):
    x, buffer, mean, path = START.copy(), np.zeros(5), None, []
    for step in range(num_steps):
        g = gradient(x, step)
        d = g if mean is None else g - sigma * mean
        mean = g if mean is None else beta * mean + (1 - beta) * g
        g = gradient(x + rho * d / np.linalg.norm(d), step)
        buffer = momentum * buffer + g + decay * x
        x = x - lr * buffer
        path.append(x.copy())
    return path


@pytest.mark.parametrize("sigma", [1.0, 0.6])
@pytest.mark.parametrize("groups", [1, 2])
def test_steps_by_hand(sigma, groups):
    params = problem()
    given = params if groups == 1 else [{"params": [p]} for p in params]  # one norm over both groups
    optimizer = FriendlySAM(given, 0.05, rho=0.3, sigma=sigma, beta=0.8, momentum=0.9, weight_decay=0.02)
    expected = by_numpy(6, 0.3, sigma, 0.8, 0.05, 0.9, 0.02)
    np.testing.assert_allclose(train(optimizer, params, 6), expected, rtol=1e-12, atol=1e-15)


def test_the_papers_order_gives_the_same_direction():
    """With sigma = 1, subtracting the mean after its update gives d times beta."""
    g, mean = np.random.default_rng(0).normal(size=(2, 5))
    ours, theirs = g - mean, g - (0.8 * mean + 0.2 * g)
    np.testing.assert_allclose(ours / np.linalg.norm(ours), theirs / np.linalg.norm(theirs), rtol=1e-12)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_without_the_mean_it_is_sam_bit_for_bit(base):
    paths = []
    for cls, more in ((FriendlySAM, {"sigma": 0.0}), (SAM, {})):
        params = problem(torch.float32)
        paths.append(train(cls(params, 0.05, rho=0.3, base=base, **more), params, 5))
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_the_base_keeps_its_own_state(base):
    """The mean gradient is not in the way of the base's momentum or of its second moments."""
    params = problem()
    optimizer = FriendlySAM(params, 0.05, base=base)
    train(optimizer, params, 2)
    plain = problem()
    expected = sparsity.load("optimizers", base)(plain, 0.05)
    train(expected, plain, 2)
    own = {name for state in optimizer.state.values() for name in state}
    assert own == {"mean_grad", *next(iter(expected.state.values()))}


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [("sigma", -1.0, "must be >= 0 and finite"), ("beta", 1.5, r"must be in \[0, 1\] \(the decay of a mean\)")],
)
def test_refuses_arguments_out_of_range(argument, value, rule):
    with pytest.raises(ValueError, match=rf"^FriendlySAM: {argument} {rule}, got {value}$"):
        FriendlySAM([torch.ones(2)], 0.1, **{argument: value})


@pytest.mark.extras
@pytest.mark.parametrize("sigma", [1.0, 0.6])
def test_steps_of_pytorch_optimizer(sigma):
    """Of release 4.1. Up to 3.9, its mean took in g - sigma m instead of g."""
    theirs = pytest.importorskip("pytorch_optimizer").FriendlySAM
    params, others = problem(), problem()
    arguments = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02}
    ours = FriendlySAM(params, rho=0.3, sigma=sigma, beta=0.8, **arguments)
    oracle = theirs(others, torch.optim.SGD, rho=0.3, sigma=sigma, lmbda=0.8, **arguments)
    for step in range(6):
        ours.step(closure_of(ours, params, step))
        closure = closure_of(oracle, others, step)
        closure()
        oracle.step(closure)
        for p, other in zip(params, others, strict=True):
            torch.testing.assert_close(p, other, rtol=1e-6, atol=0)  # its norm is in float32
