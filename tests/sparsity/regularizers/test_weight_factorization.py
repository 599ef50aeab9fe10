import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Lasso
from torch import nn

from sparsity.regularizers.l1 import L1
from sparsity.regularizers.weight_factorization import WeightFactorization


def attached(model, **arguments):
    R = WeightFactorization([model.weight], **arguments)
    R.initialize()
    R.attach(model)
    return R


def parameters(model, R):
    return list(dict.fromkeys((*model.parameters(), *R.parameters())))


@pytest.mark.parametrize(("alpha", "init"), [(0.03, "random"), (0.3, "weights")])
def test_two_factors_are_the_lasso(alpha, init):
    """Gradient descent on both factors finds scikit-learn's solution, at lam = alpha, with its zeros."""
    random = np.random.default_rng(0)
    x, w = random.normal(size=(40, 12)), np.where(np.arange(12) % 3, 0, random.normal(size=12))
    y = x @ w + 0.1 * random.normal(size=40)
    expected = Lasso(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y).coef_

    torch.manual_seed(0)
    model = nn.Linear(12, 1, bias=False).double()
    R = attached(model, num_factors=2, init=init)
    optimizer = torch.optim.SGD(parameters(model, R), 0.1, momentum=0.9)
    x, y = torch.tensor(x), torch.tensor(y)
    for _ in range(1000):
        optimizer.zero_grad()
        ((model(x).squeeze(1) - y).square().sum() / (2 * len(y)) + alpha * R()).backward()
        optimizer.step()
    found = model.weight.detach().numpy().ravel()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (expected == 0).any()
    assert R().item() == pytest.approx(L1([torch.tensor(expected)])().item(), abs=1e-3)


@pytest.mark.parametrize("num_factors", [2, 3, 4])
def test_penalty_is_at_least_that_of_equal_factors(num_factors):
    """The inequality of arithmetic and geometric means: |w|^(2/D) is the smallest penalty of the product w."""
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    w = model.weight.detach().clone()
    R = attached(model, num_factors=num_factors, init="weights")
    smallest = w.abs().pow(2 / num_factors).sum()
    assert R() > smallest
    with torch.no_grad():  # equal magnitudes, with w's sign on the first factor
        magnitude = w.abs().pow(1 / num_factors)
        R.weights[0].copy_(magnitude * w.sign())
        R.gates[0].factors.copy_(magnitude.flatten().repeat(num_factors - 1))
    torch.testing.assert_close(R(), smallest)
    torch.testing.assert_close(model.weight, w)


def test_three_factors_find_stationary_points_of_the_nonconvex_penalty():
    """Of (w - a)^2 / 2 + lam |w|^(2/3), whose derivative is 0 away from 0; small a give w = 0."""
    a = torch.linspace(-2, 2, 20, dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Linear(20, 1, bias=False).double()
    R = attached(model, num_factors=3)
    optimizer = torch.optim.SGD(parameters(model, R), 0.05, momentum=0.9)
    lam = 0.3
    for _ in range(1500):
        optimizer.zero_grad()
        ((model.weight[0] - a).square().sum() / 2 + lam * R()).backward()
        optimizer.step()
    w, a = model.weight.detach()[0].numpy(), a.numpy()
    zero = np.abs(w) < 1e-6
    assert zero[np.abs(a) < 0.6].all()
    assert not zero.all()
    slope = (w - a)[~zero] + lam * 2 / 3 * np.sign(w[~zero]) * np.abs(w[~zero]) ** (-1 / 3)
    np.testing.assert_allclose(slope, 0, atol=1e-5)
    assert R.diagnostics() == {"gates_closed": (np.abs(w) < 2**-23).mean()}


def test_decay_and_penalty_act_on_every_factor():
    """One step of SGD without a task's gradient: each factor shrinks by lr * lam * 2 / D, by hand."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    R = attached(model, num_factors=3)
    before = [p.detach().clone() for p in (R.weights[0], R.gates[0].factors)]
    (0.6 * R()).backward()
    for p, start in zip((R.weights[0], R.gates[0].factors), before, strict=True):
        torch.testing.assert_close(p - 0.5 * p.grad, start * (1 - 0.5 * 0.6 * 2 / 3))
    assert R.take_decay(0.1) == R.weights  # the optimizer decays none of them


@pytest.mark.parametrize("num_factors", [2, 4])
def test_random_factors_have_the_truncated_normal_distribution(num_factors):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(200, 100) * 0.05)
    s = weight.detach().square().mean().sqrt().item()
    R = WeightFactorization([weight], num_factors=num_factors)
    R.initialize()
    std, low, high = s ** (1 / num_factors), 3e-3 ** (1 / num_factors), (2 * s) ** (1 / num_factors)
    for factor in (weight.detach().flatten(), *R.gates[0].factors.detach().view(num_factors - 1, -1)):
        assert low * 0.9999 <= factor.abs().min()
        assert factor.abs().max() <= high * 1.0001
        assert abs(factor.sign().mean().item()) < 4 / 20_000**0.5
        inside = stats.truncnorm(low / std, high / std, scale=std)
        assert stats.kstest(factor.abs().numpy(), inside.cdf).pvalue > 1e-3


@pytest.mark.parametrize("num_factors", [2, 3, 4])
@pytest.mark.parametrize(
    ("s", "low", "high"), [(0.01, 0.8, 0.95), (0.02, 0.6, 0.8), (0.3, 0.3, 0.6), (1.0, 0.15, 0.32)]
)
def test_the_product_has_the_stated_standard_deviation(num_factors, s, low, high):
    """In units of s: as the docstring says, and by scipy from the second moment of a truncated normal factor."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(50_000) * s)
    R = WeightFactorization([weight], num_factors=num_factors)
    R.initialize()
    product = weight.detach() * R.gates[0].factors.detach().view(num_factors - 1, -1).prod(0)
    std, bounds = s ** (1 / num_factors), [x ** (1 / num_factors) for x in (3e-3, min(1, 2 * s))]
    expected = stats.truncnorm(bounds[0] / std, bounds[1] / std, scale=std).moment(2) ** (num_factors / 2) / s
    assert product.std().item() / s == pytest.approx(expected, rel=0.03)
    assert low <= expected <= high


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_init_weights_keeps_the_network(dtype):
    torch.manual_seed(0)
    model = nn.Linear(30, 20).to(dtype)
    w = model.weight.detach().clone()
    R = attached(model, init="weights")
    torch.testing.assert_close(model.weight, w, rtol={torch.bfloat16: 2e-2}.get(dtype, 1e-5), atol=0)
    assert R.gates[0].factors.abs().max() < 1


@pytest.mark.parametrize("init", ["random", "weights"])
def test_a_tensor_of_zeros_stays_zero_and_can_be_trained(init):
    """Such as LoRA's B."""
    model = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(model.weight)
    attached(model, init=init)
    assert not model.weight.any()
    model(torch.ones(1, 3)).sum().backward()
    assert model.parametrizations.weight.original.grad.eq(1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_factors": 1}, "num_factors must be a whole number >= 2, got 1"),
        ({"num_factors": math.inf}, "num_factors must be a whole number >= 2, got inf"),
        ({"num_factors": 2.5}, "num_factors must be a whole number >= 2, got 2.5"),
        ({"init": "zeros"}, "init must be one of random, weights, got 'zeros'"),
        ({"eps": 0.0}, r"eps must be > 0 and finite \(factors must not start at 0\), got 0.0"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=f"^WeightFactorization: {message}$"):
        WeightFactorization([torch.ones(2, 2)], **arguments)
