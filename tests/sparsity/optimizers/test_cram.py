import itertools

import numpy as np
import pytest
import torch

from sparsity.optimizers.cram import CrAM
from sparsity.optimizers.sgd import SGD

# loss = (x - C)^T H (x - C) / 2 over a 2x3 weight, a 2x2 weight and a bias of two
RNG = np.random.default_rng(0)
H = (lambda a: a @ a.T / 12 + np.eye(12))(RNG.normal(size=(12, 12)))
C = RNG.normal(size=12)
X0 = RNG.normal(size=12)
SHAPES = [(2, 3), (2, 2), (2,)]
PARTS = [slice(0, 6), slice(6, 10), slice(10, 12)]


def problem(arguments, groups=1):
    params = [
        torch.tensor(X0[part].reshape(shape), requires_grad=True) for part, shape in zip(PARTS, SHAPES, strict=True)
    ]
    given = params if groups == 1 else [{"params": params[:1]}, {"params": params[1:]}]
    optimizer = CrAM(given, 0.05, **arguments)

    def closure():
        optimizer.zero_grad()
        x = torch.cat([p.flatten() for p in params]) - torch.tensor(C)
        loss = x @ torch.tensor(H) @ x / 2
        loss.backward()
        return loss.detach()

    return params, optimizer, closure


def numpy_mask(x, sparsity, scope):
    """1 where kept; the bias is."""
    mask = np.ones(12)
    sets = [range(10)] if scope == "global" else [range(6), range(6, 10)]
    if scope == "2:4":
        sets = []  # rows of 3 and of 2: dense
    for chosen in sets:
        lowest = sorted(chosen, key=lambda i: abs(x[i]))[: round(sparsity * len(chosen))]
        mask[lowest] = 0
    return mask


def numpy_cram(draws, *, rho, plus, scope, sparse_grad, normalize, momentum=0.9, decay=0.02, lr=0.05):
    x, buffer = X0.copy(), np.zeros(12)
    for s in draws:
        g0 = H @ (x - C)
        w = x + (rho / np.linalg.norm(g0) if normalize else rho) * g0
        mask = numpy_mask(w, s, scope)
        g1 = H @ (w * mask - C)
        g = (g1 * mask if sparse_grad else g1) + (g0 if plus else 0)
        buffer = momentum * buffer + g + decay * x
        x = x - lr * buffer
    return x


@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize("sparse_grad", [True, False])
@pytest.mark.parametrize(
    ("normalize", "scope"), [(False, "global"), (True, "global"), (False, "uniform"), (True, "2:4")]
)
@pytest.mark.parametrize("groups", [1, 2])
def test_steps_by_hand(plus, sparse_grad, normalize, scope, groups):
    arguments = {"rho": 0.3, "plus": plus, "sparse_grad": sparse_grad, "normalize": normalize, "scope": scope}
    params, optimizer, closure = problem(
        {**arguments, "sparsities": [0.6], "momentum": 0.9, "weight_decay": 0.02}, groups
    )
    for _ in range(5):
        optimizer.step(closure)
    x = np.concatenate([p.detach().numpy().ravel() for p in params])
    np.testing.assert_allclose(x, numpy_cram([0.6] * 5, **arguments), rtol=1e-12)


def test_steps_by_hand_with_adamw():
    params, optimizer, closure = problem({"rho": 0.3, "sparsities": 0.6, "base": "adamw", "weight_decay": 0.02})
    x, m, v = X0.copy(), 0.0, 0.0
    for t in range(1, 5):
        optimizer.step(closure)
        g0 = H @ (x - C)
        w = x + 0.3 * g0
        mask = numpy_mask(w, 0.6, "global")
        g = g0 + mask * (H @ (w * mask - C))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x * (1 - 0.05 * 0.02) - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(np.concatenate([p.detach().numpy().ravel() for p in params]), x, rtol=1e-12)


def sparsities_seen(optimizer, params, closure, num_steps):
    """Of the second call of each step, over the tensors that are compressed."""
    seen = []

    def watched():
        weights = torch.cat([p.detach().flatten() for p in params if p.dim() > 1])
        seen.append((weights == 0).double().mean().item())
        return closure()

    for _ in range(num_steps):
        optimizer.step(watched)
    return seen[1::2]


def test_draws_are_of_the_list_equally_likely_and_of_the_seed_alone():
    def run(seed, num_steps=60):
        torch.manual_seed(num_steps)
        params, optimizer, closure = problem({"seed": seed, "sparsities": "0.5,0.7,0.9"})
        return sparsities_seen(optimizer, params, closure, num_steps)

    seen = run(0)
    assert set(seen) == {0.5, 0.7, 0.9}
    assert all(10 <= seen.count(s) <= 30 for s in set(seen))
    assert run(0, 59) == seen[:59]
    assert run(1) != seen


def test_draws_go_on_after_a_resume():
    params, optimizer, closure = problem({"seed": 4})
    straight = sparsities_seen(optimizer, params, closure, 8)
    params, optimizer, closure = problem({"seed": 4})
    assert sparsities_seen(optimizer, params, closure, 3) == straight[:3]
    state = optimizer.state_dict()
    params, optimizer, closure = problem({"seed": 99})
    optimizer.load_state_dict(state)
    assert sparsities_seen(optimizer, params, closure, 5) == straight[3:]


def test_one_of_several_patterns_is_drawn():
    w = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = CrAM([w], 0.0, scope="1:4,4:8")
    seen = set()

    def closure():
        optimizer.zero_grad()
        loss = (w + 1).square().sum()
        loss.backward()
        seen.add(int(w.count_nonzero()))
        return loss.detach()

    for _ in range(20):
        optimizer.step(closure)
    assert seen == {16, 4, 8}  # dense, 1:4, 4:8


def test_without_compression_and_perturbation_it_is_the_base():
    def run(optimizer):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
        optimizer = optimizer(net.parameters(), 0.05)
        for step in range(5):
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))

            def closure(x=x):
                optimizer.zero_grad()
                loss = net(x).square().sum()
                loss.backward()
                return loss.detach()

            optimizer.step(closure)
        return list(net.parameters())

    off = run(lambda params, lr: CrAM(params, lr, rho=0, sparsities=(0.0,), plus=False))
    assert all(torch.equal(a, b) for a, b in zip(off, run(SGD), strict=True))


def test_one_dimensional_parameters_stay_dense_and_weights_come_back():
    params, optimizer, closure = problem({"sparsities": (0.9,)})
    before = [p.detach().clone() for p in params]
    calls = itertools.count()

    def watched():
        if next(calls) == 1:
            assert [int(p.count_nonzero()) for p in params] in ([1, 0, 2], [0, 1, 2])
        return closure()

    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(watched)
    assert next(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsities": []}, r"sparsities must hold at least one \(one is drawn each step\), got \[\]"),
        ({"sparsities": ""}, r"sparsities must hold at least one \(one is drawn each step\), got ''"),
        ({"sparsities": (0.5, 1.0)}, r"sparsities must be in \[0, 1\), the fraction removed, got 1.0"),
        ({"sparsities": (-0.1,)}, r"sparsities must be in \[0, 1\), the fraction removed, got -0.1"),
        ({"sparsities": float("nan")}, r"sparsities must be in \[0, 1\), the fraction removed, got nan"),
        ({"sparsities": "0.5;0.7"}, r"sparsities must be numbers \(such as 0.5,0.7,0.9\), got '0.5;0.7'"),
        ({"sparsities": None}, r"sparsities must be numbers \(such as 0.5,0.7,0.9\), got None"),
        (
            {"scope": "4:2"},
            r"scope must be global, uniform, or n:m with n <= m \(such as 2:4, or 2:4,4:8\), got '4:2'",
        ),
        ({"scope": "local"}, r"scope must be global, uniform, or n:m with n <= m .*, got 'local'"),
        ({"rho": -0.05}, r"rho must be >= 0 and finite, got -0.05"),
        ({"seed": -1}, r"seed must be a whole number >= 0, got -1"),
        ({"seed": 0.5}, r"seed must be a whole number >= 0, got 0.5"),
        ({"base": "sfw"}, r"base must be one of adamw, sgd, got 'sfw'"),
        ({"base": "sam"}, r"base must be one of adamw, sgd, got 'sam'"),
    ],
)
def test_refuses_useless_arguments(arguments, message):
    with pytest.raises(ValueError, match=rf"^CrAM: {message}$"):
        CrAM([torch.ones(2, 2)], 0.1, **arguments)


def test_a_seed_may_be_a_whole_number_of_numpy():
    assert type(CrAM([torch.ones(2, 2)], 0.1, seed=np.int64(3)).param_groups[0]["seed"]) is int  # a state dict has it


@pytest.mark.parametrize("scope", ["global", "uniform", "2:4"])
@pytest.mark.parametrize("sparsity", [0.2, 0.9])
def test_top_k_does_not_wait_for_the_device(scope, sparsity):
    w = torch.empty(4, 8, device="meta", requires_grad=True)
    optimizer = CrAM([w], 0.1, scope=scope, sparsities=sparsity)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    assert w.device.type == "meta"
