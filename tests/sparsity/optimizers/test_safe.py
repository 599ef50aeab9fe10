import itertools

import numpy as np
import pytest
import torch

from sparsity import masks
from sparsity.optimizers.safe import SAFE
from sparsity.optimizers.sam import SAM

W = np.array([[1.0, -2.0, 0.3], [0.2, 0.7, -0.4]])
B = np.array([0.5, 0.0])
W_SCALE, W_CENTER = np.array([[1.0, 4.0, 0.5], [2.0, 1.0, 3.0]]), np.array([[0.5, -1.0, 0.1], [0.6, 0.2, -0.9]])
B_SCALE = np.array([2.0, 3.0])


def problem(dtype=torch.float64):
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (W, B)]


def closure_of(optimizer, params, calls=None):
    w, b = params

    def closure():
        optimizer.zero_grad()
        loss = (torch.tensor(W_SCALE) * (w - torch.tensor(W_CENTER)) ** 2).sum() / 2
        loss = loss + (torch.tensor(B_SCALE) * (b - 1) ** 2).sum() / 2
        loss.backward()
        if calls is not None:
            calls.append(loss.item())
        return loss.detach()

    return closure


def nearest(x, num_kept):
    """The nearest point with at most `num_kept` nonzero elements, among all ways to choose them."""
    flat, best = x.ravel(), None
    for kept in itertools.combinations(range(flat.size), num_kept):
        point = np.zeros_like(flat)
        point[list(kept)] = flat[list(kept)]
        if best is None or np.linalg.norm(flat - point) < np.linalg.norm(flat - best):
            best = point
    return best.reshape(x.shape)


def by_numpy(num_steps, *, rho, num_kept, admm_lam, interval, schedule_steps, lr=0.05, momentum=0.9, decay=0.02):
    w, b, path = W.copy(), B.copy(), []
    w_buffer, b_buffer = np.zeros_like(w), np.zeros_like(b)
    z, u = nearest(w, num_kept), np.zeros_like(w)
    for step in range(num_steps):
        gw, gb = W_SCALE * (w - W_CENTER), B_SCALE * (b - 1)
        if rho:
            norm = np.sqrt((gw**2).sum() + (gb**2).sum())
            gw, gb = W_SCALE * (w + rho * gw / norm - W_CENTER), B_SCALE * (b + rho * gb / norm - 1)
        lam = admm_lam if schedule_steps is None else admm_lam * 0.5 * (1 - np.cos(np.pi * step / schedule_steps))
        w_buffer = momentum * w_buffer + gw + lam * (w - z + u) + decay * w
        b_buffer = momentum * b_buffer + gb + decay * b  # no pull on biases
        w, b = w - lr * w_buffer, b - lr * b_buffer
        if (step + 1) % interval == 0:
            z_new = nearest(w + u, num_kept)
            u, z = u + w - z_new, z_new
        path.append(np.concatenate([w.ravel(), b]))
    return path


@pytest.mark.parametrize("rho", [0.3, 0.0], ids=["SAFE", "ADMM"])
@pytest.mark.parametrize("schedule_steps", [None, 9])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8])
def test_steps_by_numpy(rho, schedule_steps, sparsity):
    params = problem()
    optimizer = SAFE(
        params,
        0.05,
        rho=rho,
        sparsity=sparsity,
        admm_lam=0.7,
        interval=3,
        num_steps=schedule_steps,
        momentum=0.9,
        weight_decay=0.02,
    )
    path = []
    for _ in range(9):
        optimizer.step(closure_of(optimizer, params))
        path.append(torch.cat([p.detach().flatten() for p in params]).numpy().copy())
    num_kept = 6 - round(sparsity * 6)
    given = {"rho": rho, "num_kept": num_kept, "admm_lam": 0.7, "interval": 3, "schedule_steps": schedule_steps}
    np.testing.assert_allclose(path, by_numpy(9, **given), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("scope", "counts"), [("global", (6,)), ("uniform", (3, 3)), ("2:4", (4, 4))])
def test_projection_has_the_scope(scope, counts):
    """z has the nonzero weights that pruning w keeps, ties aside."""
    torch.manual_seed(0)
    weights = [torch.randn(1, 6, requires_grad=True), (10 * torch.randn(1, 6)).requires_grad_()]
    if scope == "2:4":
        weights = [torch.randn(1, 8, requires_grad=True), torch.randn(1, 8, requires_grad=True)]
    optimizer = SAFE(weights, 0.0, sparsity=0.5, scope=scope, admm_lam=1.0)

    def closure():
        loss = sum(w.square().sum() for w in weights)
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    kept = [optimizer.state[w]["projection"] != 0 for w in weights]
    expected = masks.prune([w.detach().abs() for w in weights], 0.5, scope)
    assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True))
    assert sum(int(mask.sum()) for mask in kept) == sum(counts)


def test_z_covers_weights_without_a_gradient_in_this_step():
    """ADMM by NumPy on two tensors: the second has a gradient in every other step, a frozen third is left out."""
    x, y = np.array([[3.0, -1.0], [0.5, 2.0]]), np.array([[0.4, -0.2], [0.1, 1.5]])
    w, v = (torch.tensor(value, requires_grad=True) for value in (x, y))
    frozen = torch.full((2, 2), 9.0)
    optimizer = SAFE([w, v, frozen], 0.1, rho=0.0, sparsity=0.5, admm_lam=0.7, interval=2, momentum=0.0)
    z = nearest(np.stack([x, y]), 4)
    u = np.zeros_like(z)
    for step in range(6):

        def closure(step=step):
            optimizer.zero_grad()
            loss = w.square().sum() + (v.square().sum() if step % 2 == 0 else 0)
            loss.backward()
            return loss.detach()

        optimizer.step(closure)
        x = x - 0.1 * (2 * x + 0.7 * (x - z[0] + u[0]))
        if step % 2 == 0:
            y = y - 0.1 * (2 * y + 0.7 * (y - z[1] + u[1]))
        else:
            both = np.stack([x, y])
            z, u = nearest(both + u, 4), u + both - nearest(both + u, 4)
        for p, mine, z_of, u_of in zip((w, v), (x, y), z, u, strict=True):
            np.testing.assert_allclose(p.detach(), mine, rtol=1e-12)
            np.testing.assert_allclose(optimizer.state[p]["projection"], z_of, rtol=1e-12)
            np.testing.assert_allclose(optimizer.state[p]["dual"], u_of, rtol=1e-12, atol=1e-15)
    assert frozen not in optimizer.state


def test_weights_approach_the_sparse_set():
    """With a strong pull, the weights that pruning removes are nearly 0, and the others are nearly the optimum."""
    params = problem()
    optimizer = SAFE(params, 0.05, rho=0.0, sparsity=0.5, admm_lam=5.0, interval=8, momentum=0.0)
    for _ in range(1500):
        optimizer.step(closure_of(optimizer, params))
    w = params[0].detach().numpy()
    kept = nearest(w, 3) != 0
    assert np.abs(w[~kept]).max() < 1e-4
    np.testing.assert_allclose(w[kept], W_CENTER[kept], atol=1e-4)


def test_takes_two_gradients_and_one_as_admm():
    for rho, num_calls in ((0.1, 2), (0.0, 1)):
        params, calls = problem(), []
        optimizer = SAFE(params, 0.05, rho=rho)
        optimizer.step(closure_of(optimizer, params, calls))
        assert len(calls) == num_calls


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_without_the_pull_it_is_sam_bit_for_bit(base):
    found = []
    for cls, more in ((SAFE, {"admm_lam": 0.0}), (SAM, {})):
        params = problem()
        optimizer = cls(params, 0.05, rho=0.3, base=base, **more)
        for _ in range(5):
            optimizer.step(closure_of(optimizer, params))
        found.append((params, optimizer))
    assert all(torch.equal(a, b) for a, b in zip(found[0][0], found[1][0], strict=True))
    assert not any("projection" in state for state in found[0][1].state.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\) \(the fraction removed\), got 1.0"),
        ({"scope": "row"}, "scope must be global, uniform, or n:m with n <= m .*, got 'row'"),
        ({"scope": "2:4,4:8"}, r"scope must be a single pattern \(all steps project alike\), got '2:4,4:8'"),
        ({"admm_lam": -1.0}, "admm_lam must be >= 0 and finite, got -1.0"),
        ({"interval": np.inf}, "interval must be a whole number >= 1, got inf"),
        ({"interval": 0}, "interval must be a whole number >= 1, got 0"),
        ({"num_steps": 0.5}, "num_steps must be a whole number >= 1, got 0.5"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=f"^SAFE: {message}$"):
        SAFE([torch.ones(2, 2)], 0.1, **arguments)
