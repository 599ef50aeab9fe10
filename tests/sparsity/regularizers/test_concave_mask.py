import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sparsity.optimizers.sgd import SGD
from sparsity.regularizers.concave_mask import ConcaveMask
from sparsity.regularizers.l1 import L1


def with_mask(values, **arguments):
    R = ConcaveMask([torch.ones(len(values), dtype=torch.float64)], **arguments)
    with torch.no_grad():
        R.gates[0].m.copy_(torch.tensor(values, dtype=torch.float64))
    return R


@pytest.mark.parametrize("delta", [0.01, 0.1, 2.0])
def test_log_matches_the_formula_and_its_ends(delta):
    for m, expected in ((0.0, 0.0), (1.0, 1.0), (0.3, math.log(1 + 0.3 / delta) / math.log(1 + 1 / delta))):
        assert with_mask([m], delta=delta)().item() == pytest.approx(expected, abs=1e-15)


def test_l1_is_the_sum():
    assert with_mask([0.0, 0.25, 1.0], r="l1")().item() == 1.25


def test_log_is_steepest_at_zero_and_goes_on_straight_below_it():
    R = with_mask([-0.05, 0.0, 0.5, 1.0], delta=0.1)
    R().backward()
    slope = R.gates[0].m.grad * math.log(11)
    np.testing.assert_allclose(slope.numpy(), [10, 10, 1 / 0.6, 1 / 1.1], rtol=1e-12)
    assert with_mask([-0.5], delta=0.1)().item() == pytest.approx(-5 / math.log(11))  # a perturbed mask: no nan


def test_project_clamps_the_masks_alone():
    R = with_mask([-0.2, 0.0, 0.4, 1.0, 1.7])
    weights = R.weights[0].clone()
    R.project()
    assert R.gates[0].m.tolist() == [0.0, 0.0, 0.4, 1.0, 1.0]
    assert torch.equal(R.weights[0], weights)


@pytest.mark.parametrize(("arguments", "expected"), [({}, 1.44), ({"delta": 0.5}, math.log(3)), ({"r": "l1"}, 1.0)])
def test_masks_close_where_the_docstring_says(arguments, expected):
    """Gradient descent on lam R alone: lam S = log(1 + 1/delta) (delta + 1/2) takes m from 1 to 0."""
    R = with_mask([1.0], **arguments)
    step, lam_s = 1e-3, 0.0
    while R.diagnostics()["gates_closed"] == 0:
        (grad,) = torch.autograd.grad(R(), R.gates[0].m)
        with torch.no_grad():
            R.gates[0].m -= step * grad
        R.project()
        lam_s += step
    assert lam_s == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("start", [1.0, 0.5])
def test_starts_where_it_is_told_and_the_model_sees_the_product(start):
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    R = ConcaveMask([layer.weight], start=start)
    R.attach(layer)
    assert torch.equal(layer.weight, start * before)
    assert R.gate_values()[0].tolist() == [[start] * 3] * 2


def two_digits(a=3, b=8):
    """Images of two classes, scaled to [0, 1]: train and held out, 2 to 1."""
    images, labels = load_digits(return_X_y=True)
    chosen = (labels == a) | (labels == b)
    order = np.random.default_rng(0).permutation(chosen.sum())
    x, y = torch.tensor(images[chosen][order] / 16), torch.tensor(labels[chosen][order] == b, dtype=torch.float64)
    cut = len(y) * 2 // 3
    return x[:cut], y[:cut], x[cut:], y[cut:]


def logistic_regression(make, lam=3e-3, num_steps=500):
    """(held-out accuracy, weights that are not zero, signs that flip a step at the end) of 64 weights."""
    x, y, x_test, y_test = two_digits()
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 1).double()
    R = make([model.weight])
    R.attach(model)
    optimizer = SGD(dict.fromkeys((*model.parameters(), *R.parameters())), 0.5)
    seen = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)
        (loss + lam * R()).backward()
        optimizer.step()
        R.project()
        seen.append(model.weight.detach().sign())
    R.fold(model)
    accuracy = ((model(x_test)[:, 0] > 0) == y_test.bool()).double().mean().item()
    last = torch.stack(seen[-50:])
    return accuracy, int(model.weight.count_nonzero()), (last[1:] * last[:-1] < 0).sum().item() / 49


def test_logistic_regression_of_two_digits_is_sparse_and_accurate_with_log():
    """The paper's sanity case. Measured (3 against 8, 238 images, 119 held out): the log mask keeps 17 of 64 weights at
    accuracy 1.0, the projected l1 mask 14 at 0.992 (as sparse: the claimed advantage of log does not show here); l1
    on the weights themselves, by subgradients, removes none, and 15 of 64 signs flip at every step."""
    accuracy, num_kept, flips = logistic_regression(ConcaveMask)
    assert accuracy > 0.98
    assert num_kept <= 24
    assert flips == 0
    accuracy, num_kept, flips = logistic_regression(lambda w: ConcaveMask(w, r="l1"))
    assert accuracy > 0.95
    assert num_kept <= 24
    _, num_kept, flips = logistic_regression(L1)
    assert num_kept == 64
    assert flips > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": "l2"}, r"r must be one of log, l1, got 'l2'"),
        ({"delta": 0.0}, r"delta must be > 0 and finite \(it bounds the slope of r at 0\), got 0.0"),
        ({"delta": math.inf}, r"delta must be > 0 and finite .*, got inf"),
        ({"start": 0.0}, r"start must be in \(0, 1\] \(a mask at 0 would not train theta\), got 0.0"),
        ({"start": 1.5}, r"start must be in \(0, 1\] .*, got 1.5"),
    ],
)
def test_refuses_useless_arguments(arguments, message):
    with pytest.raises(ValueError, match=rf"^ConcaveMask: {message}$"):
        ConcaveMask([torch.ones(2)], **arguments)
