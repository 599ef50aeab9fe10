import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsity.optimizers.sfw import SFW, polytope, vertex


def vertices(n, k, r):
    """All of the K-sparse polytope's: -r or r on each support of k entries."""
    for support in itertools.combinations(range(n), k):
        for signs in itertools.product((-r, r), repeat=k):
            v = np.zeros(n)
            v[list(support)] = signs
            yield v


@pytest.mark.parametrize(("n", "k"), [(6, 1), (6, 2), (5, 3), (4, 4)])
@pytest.mark.parametrize("seed", range(5))
def test_vertex_is_the_best_of_all_vertices(n, k, seed):
    d = np.random.default_rng(seed).normal(size=n)
    best = max(vertices(n, k, 0.7), key=lambda v: -d @ v)
    np.testing.assert_array_equal(vertex(torch.tensor(d), k, 0.7).numpy(), best)


def test_vertex_keeps_shape_and_takes_ties_once():
    d = torch.ones(2, 3, 2)
    v = vertex(d, 4, 2.0)
    assert v.shape == d.shape
    assert v.count_nonzero() == 4
    assert v.unique().tolist() == [-2.0, 0.0]


def run(w, gradients, lr=1.0, **arguments):
    """Steps along given gradients."""
    optimizer = SFW([w], lr, **arguments)
    for g in gradients:
        w.grad = torch.as_tensor(g, dtype=w.dtype).view(w.shape)
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize("rescale", ["gradient", "diameter", "none"])
def test_steps_by_hand(rescale):
    rng = np.random.default_rng(0)
    x, gradients, lr = rng.normal(size=(4, 6)) * 0.1, rng.normal(size=(5, 4, 6)), 0.3
    w = torch.tensor(x, requires_grad=True)
    result = run(w, gradients, lr, k_fraction=0.25, min_k=2, tau=3.0, rescale=rescale, momentum=0.8)
    k = 6  # a quarter of 24
    diameter = 2 * 3.0 * math.sqrt(4 / 3)  # four rows of U(-1/sqrt(6), 1/sqrt(6)): a norm of sqrt(24 / (3 * 6))
    r, d = diameter / (2 * math.sqrt(k)), gradients[0]
    for i, g in enumerate(gradients):
        d = 0.8 * d + 0.2 * g if i else g
        v = np.zeros(24)
        largest = np.argsort(-np.abs(d).ravel())[:k]
        v[largest] = -r * np.sign(d.ravel()[largest])
        v = v.reshape(4, 6)
        eta = {"gradient": np.linalg.norm(d) / np.linalg.norm(x - v), "diameter": 1 / diameter, "none": 1.0}[rescale]
        eta = min(max(lr * eta, 0), 1)
        x = (1 - eta) * x + eta * v
    np.testing.assert_allclose(result.numpy(), x, rtol=1e-12, atol=1e-15)


def test_one_dimensional_parameters_take_the_plain_step():
    w = torch.tensor([5.0, -7.0], dtype=torch.float64, requires_grad=True)
    result = run(w, [[1.0, 2.0], [3.0, 0.0]], lr=0.5, momentum=0.9)
    np.testing.assert_allclose(result.numpy(), [5 - 0.5 * (1 + 1.2), -7 - 0.5 * (2 + 1.8)], rtol=1e-15)


@pytest.mark.parametrize(
    ("shape", "k", "n"), [((2, 3), 6, 6), ((4, 5), 10, 20), ((64, 3, 3, 3), 86, 1728), ((64, 64, 3, 3), 1843, 36864)]
)
def test_k_and_radius_of_the_defaults(shape, k, n):
    p = torch.empty(shape)
    group = SFW([torch.zeros(shape)], 1.0).param_groups[0]
    assert p.numel() == n
    diameter = 30 * math.sqrt(shape[0] / 3)
    assert polytope(p, group) == (k, pytest.approx(diameter / (2 * math.sqrt(k))))
    for mode, r in (("radius", 15.0), ("diameter", 15 / (2 * math.sqrt(k)))):
        assert polytope(p, {**group, "mode": mode}) == (k, pytest.approx(r))


@pytest.mark.parametrize(
    "make",
    [lambda: torch.nn.Linear(30, 20), lambda: torch.nn.Conv2d(8, 12, 3), lambda: torch.nn.Conv2d(8, 8, 3, groups=4)],
)
def test_diameter_is_that_of_torchs_default_initialization(make):
    torch.manual_seed(0)
    norms = [make().weight.norm().item() for _ in range(200)]
    weight = make().weight
    k, r = polytope(weight, SFW([weight], 1.0).param_groups[0])
    assert 2 * r * math.sqrt(k) == pytest.approx(2 * 15 * np.mean(norms), rel=0.01)


def assert_inside(w, k, r):
    assert w.abs().max().item() <= np.float32(r)
    assert w.double().abs().sum().item() <= k * r * (1 + 1e-6)


@given(
    st.integers(0, 10**6),
    st.sampled_from([(3, 4), (1, 1), (5, 2, 3), (2, 30)]),
    st.sampled_from([1e-6, 0.3, 1.0, 50.0]),
    st.sampled_from(["gradient", "diameter", "none"]),
    st.sampled_from([0.01, 1.0, 100.0]),
    st.floats(0.01, 1.0),
)
@settings(max_examples=100, deadline=None)
def test_weights_start_inside_and_never_leave(seed, shape, lr, rescale, scale, k_fraction):
    generator = torch.Generator().manual_seed(seed)
    w = (torch.randn(shape, generator=generator) * scale).requires_grad_()
    optimizer = SFW([w], lr, rescale=rescale, tau=1.0, k_fraction=k_fraction, min_k=1)
    k, r = polytope(w, optimizer.param_groups[0])
    assert_inside(w.detach(), k, r)
    for _ in range(20):
        w.grad = torch.randn(shape, generator=generator) * scale
        optimizer.step()
        assert_inside(w.detach(), k, r)


def test_weights_outside_are_scaled_onto_the_boundary_and_others_left():
    w = torch.tensor([[3.0, -1.0], [0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    SFW([w], 1.0, mode="radius", tau=1.5, min_k=1, k_fraction=1.0)
    np.testing.assert_allclose(w.detach(), [[1.5, -0.5], [0.25, 0.0]])
    SFW([w], 1.0, mode="radius", tau=0.75, min_k=2, k_fraction=0.1)  # |w|_1 = 2.25, K r = 1.5; |w|_inf is the tighter
    np.testing.assert_allclose(w.detach(), [[0.75, -0.25], [0.125, 0.0]])
    SFW([w], 1.0, mode="radius", tau=0.75, min_k=1, k_fraction=0.1)  # K r = 0.75
    np.testing.assert_allclose(w.abs().sum().item(), 0.75)
    inside = (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) * 0.1).requires_grad_()
    before = inside.clone()
    zero, bias = torch.zeros(2, 2, requires_grad=True), torch.full((3,), 1e6, requires_grad=True)
    SFW([inside, zero, bias], 1.0)
    assert torch.equal(inside, before)
    assert not zero.any()
    assert bias.tolist() == [1e6] * 3


def test_frozen_weights_are_not_scaled():
    frozen, trained = torch.full((2, 2), 100.0), torch.full((2, 2), 100.0, requires_grad=True)
    SFW([frozen, trained], 1.0, mode="radius", tau=2.0)
    assert frozen.tolist() == [[100.0, 100.0], [100.0, 100.0]]
    assert trained.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_a_group_added_later_is_put_inside_too():
    w = torch.full((2, 2), 100.0, requires_grad=True)
    optimizer = SFW([torch.zeros(2, 2)], 1.0)
    optimizer.add_param_group({"params": [w], "mode": "radius", "tau": 2.0})
    assert w.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    with pytest.raises(ValueError, match=r"^SFW: tau must be > 0 and finite"):
        optimizer.add_param_group({"params": [torch.ones(2, 2)], "tau": 0})


def test_a_group_has_the_checks_of_the_constructor():
    optimizer = SFW([torch.zeros(2, 2)], 1.0)
    with pytest.raises(ValueError, match=r"^SFW: weight_decay must be 0 or left out .*, got 0.1$"):
        optimizer.add_param_group({"params": [torch.ones(2, 2)], "weight_decay": 0.1})
    optimizer.add_param_group({"params": [torch.ones(2, 2)], "weight_decay": 0.0, "rescale": None})
    assert optimizer.param_groups[1]["rescale"] == "none"


@pytest.mark.parametrize("rescale", ["gradient", "diameter", "none", None])
def test_zero_gradients_and_zero_weights_give_no_nan(rescale):
    w = torch.zeros(3, 4, requires_grad=True)
    assert not run(w, [torch.zeros(3, 4)] * 2, rescale=rescale).any()


def test_learns_a_sparse_regression():
    torch.manual_seed(0)
    truth = torch.zeros(40, 1)
    truth[:3, 0] = torch.tensor([1.0, -2.0, 1.5])
    x = torch.randn(200, 40)
    w = (torch.randn(40, 1) * 0.1).requires_grad_()
    optimizer = SFW([w], 0.1, tau=2.5, mode="radius", min_k=3, k_fraction=0.05)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimizer.zero_grad()
        (x @ w - x @ truth).square().mean().backward()
        optimizer.step()
    assert (w - truth).abs().max() < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": 5e-4}, r"weight_decay must be 0 or left out \(the polytope bounds the weights\), got 0.0005"),
        ({"base": "sgd"}, r"base must be left out \(SFW updates the weights itself\), got 'sgd'"),
        ({"k_fraction": 1.5}, r"k_fraction must be in \(0, 1\] \(K may not be above n\), got 1.5"),
        ({"k_fraction": 0.0}, r"k_fraction must be in \(0, 1\] \(K may not be above n\), got 0.0"),
        ({"min_k": 0}, r"min_k must be a whole number >= 1, got 0"),
        ({"min_k": math.inf}, r"min_k must be a whole number >= 1, got inf"),
        ({"min_k": 2.5}, r"min_k must be a whole number >= 1, got 2.5"),
        ({"tau": 0.0}, r"tau must be > 0 and finite \(it sets the size of the polytope\), got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\) \(at 1 no gradient enters\), got 1.0"),
        ({"rescale": "norm"}, r"rescale must be one of gradient, diameter, none, got 'norm'"),
        ({"mode": "init"}, r"mode must be one of initialization, diameter, radius, got 'init'"),
        ({"rho": 0.1}, r"arguments must be among lr, k_fraction, min_k, mode, momentum, rescale, tau, got 'rho'"),
    ],
)
def test_refuses_useless_arguments(arguments, message):
    with pytest.raises(ValueError, match=rf"^SFW: {message}$"):
        SFW([torch.ones(2, 2)], 1.0, **arguments)


def test_takes_a_weight_decay_of_zero():
    assert "weight_decay" not in SFW([torch.ones(2, 2)], 1.0, weight_decay=0.0).param_groups[0]


def test_float16_weights_inside_the_polytope_stay():
    """Their sum of absolute values is above 65,504, the largest float16."""
    w = torch.full((300, 400), 0.75, dtype=torch.float16, requires_grad=True)
    SFW([w], 1.0, mode="radius", tau=1.0, k_fraction=1.0)
    assert (w == 0.75).all()
