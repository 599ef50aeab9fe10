import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from sparsity.regularizers.l0_hard_concrete import L0HardConcrete

LOG_ALPHA = [-4.0, -1.0, 0.0, 0.7, 3.0]
ARGUMENTS = [{}, {"beta": 0.5, "gamma": -0.3, "zeta": 1.2}, {"beta": 1.0}]


def with_log_alpha(values, **arguments):
    R = L0HardConcrete([torch.ones(len(values), dtype=torch.float64)], **arguments)
    with torch.no_grad():
        R.gates[0].log_alpha.copy_(torch.tensor(values, dtype=torch.float64))
    return R


def hard_concrete(u, log_alpha, beta=2 / 3, gamma=-0.1, zeta=1.1):
    """z by the paper's formula, in NumPy."""
    s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + log_alpha) / beta))
    return np.clip(s * (zeta - gamma) + gamma, 0, 1)


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("log_alpha", LOG_ALPHA)
def test_penalty_is_the_integral_of_the_density_where_the_gate_is_open(log_alpha, arguments):
    """Of the binary concrete density of s (Maddison et al.; Jang et al.), over s (zeta - gamma) + gamma > 0."""
    beta, gamma, zeta = arguments.get("beta", 2 / 3), arguments.get("gamma", -0.1), arguments.get("zeta", 1.1)
    alpha = math.exp(log_alpha)

    def density(s):
        return beta * alpha * (s * (1 - s)) ** (-beta - 1) / (alpha * s**-beta + (1 - s) ** -beta) ** 2

    closed = -gamma / (zeta - gamma)
    middle = (closed + 1) / 2
    probability = quad(density, closed, middle)[0] + quad(density, middle, 1)[0]
    assert with_log_alpha([log_alpha], **arguments)().item() == pytest.approx(probability, rel=1e-6)


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_penalty_is_the_frequency_of_open_gates(arguments):
    n = 200_000
    u = np.random.default_rng(0).random((n, len(LOG_ALPHA)))
    frequency = (hard_concrete(u, np.array(LOG_ALPHA), **arguments) > 0).mean(0)
    R = with_log_alpha(LOG_ALPHA, **arguments)
    torch.manual_seed(0)
    with torch.no_grad():
        own = torch.stack([R.gates[0].values(training=True) > 0 for _ in range(n // 20)]).double().mean(0)
    for i, log_alpha in enumerate(LOG_ALPHA):
        expected = with_log_alpha([log_alpha], **arguments)().item()
        assert frequency[i] == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(n))
        assert own[i].item() == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(n // 20))


def test_noise_is_the_papers_formula_and_torchs_global_generator():
    R = with_log_alpha(LOG_ALPHA)
    torch.manual_seed(5)
    u = torch.rand(len(LOG_ALPHA), dtype=torch.float64).numpy()
    torch.manual_seed(5)
    z = R.gates[0].values(training=True)
    np.testing.assert_allclose(z.detach().numpy(), hard_concrete(u, np.array(LOG_ALPHA)), rtol=1e-12)


def test_noise_that_is_exactly_zero_closes_the_gate_without_a_nan(monkeypatch):
    R = with_log_alpha([0.0])
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    z = R.gates[0].values(training=True)
    z.sum().backward()
    assert z.item() == 0
    assert R.gates[0].log_alpha.grad.item() == 0


def test_evaluation_is_deterministic_and_exactly_zero_or_one_at_the_ends():
    R = with_log_alpha([-9.0, 9.0, 0.0])
    z = R.gates[0].values(training=False)
    assert z.tolist() == [0.0, 1.0, pytest.approx(0.5)]
    layer = torch.nn.Linear(3, 2)
    L0HardConcrete([layer.weight]).attach(layer)
    layer.eval()
    assert torch.equal(layer.weight, layer.weight)
    layer.train()
    assert not torch.equal(layer.weight, layer.weight)


def test_gradient_reaches_log_alpha_through_the_network():
    torch.manual_seed(0)
    layer = torch.nn.Linear(30, 20)
    R = L0HardConcrete([layer.weight])
    R.attach(layer)
    layer(torch.randn(8, 30)).square().sum().backward()
    grad = R.gates[0].log_alpha.grad
    assert grad.isfinite().all()
    assert 0.2 < grad.ne(0).double().mean() < 1  # 0 where the gate is clamped


@pytest.mark.parametrize(
    ("shape", "per", "num_gates", "each"),
    [
        ((4, 3, 2, 2), "weight", 48, 1),
        ((4, 3, 2, 2), "row", 4, 12),
        ((5, 2), "row", 5, 2),
        ((7,), "row", 7, 1),
        ((), "row", 1, 1),
    ],
)
def test_counts_the_weights_that_a_gate_switches(shape, per, num_gates, each):
    R = L0HardConcrete([torch.ones(shape, dtype=torch.float64)], per=per)
    assert R.gates[0].log_alpha.shape == (num_gates,)
    p = 1 / (1 + math.exp(2 / 3 * math.log(0.1 / 1.1)))
    assert R().item() == pytest.approx(num_gates * each * p, rel=1e-12)


def test_a_row_is_a_filter():
    conv = torch.nn.Conv2d(2, 3, 2)
    R = L0HardConcrete([conv.weight], per="row")
    R.attach(conv)
    with torch.no_grad():
        R.gates[0].log_alpha.copy_(torch.tensor([9.0, -9.0, 0.0]))
    conv.eval()
    theta = conv.parametrizations.weight.original
    assert torch.equal(conv.weight, theta * torch.tensor([1.0, 0.0, 0.5]).view(3, 1, 1, 1))


def test_gates_close_where_the_docstring_says():
    """Gradient descent on lam R alone: lam S = integral of 1 / (P (1 - P)) = 11.3 takes log_alpha from 0 to -2.40."""
    end = -math.log(11)  # sigmoid(log_alpha) * 1.2 - 0.1 = 0
    assert end == pytest.approx(-2.40, abs=5e-3)
    expected = quad(lambda x: 2 + 2 * math.cosh(x - 2 / 3 * math.log(0.1 / 1.1)), end, 0)[0]
    assert expected == pytest.approx(11.3, abs=0.05)
    R = with_log_alpha([0.0])
    step, lam_s = 0.02, 0.0
    while R.diagnostics()["gates_closed"] == 0:
        (grad,) = torch.autograd.grad(R(), R.gates[0].log_alpha)
        with torch.no_grad():
            R.gates[0].log_alpha -= step * grad
        lam_s += step
    assert lam_s == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("per", ["weight", "row"])
def test_decay_is_the_expected_square_and_its_gradient_the_closed_form(per):
    """d/dtheta = weight_decay theta P and d/dlog_alpha = weight_decay / 2 theta^2 P (1 - P), in NumPy; lam is apart."""
    theta = torch.tensor([[0.5, -2.0, 1.0], [3.0, 0.0, -1.5]], dtype=torch.float64, requires_grad=True)
    R = L0HardConcrete([theta], per=per)
    log_alpha = R.gates[0].log_alpha
    with torch.no_grad():
        log_alpha.copy_(torch.linspace(-3, 2, len(log_alpha)))
    logit = log_alpha.detach().numpy().reshape(R.gates[0].shape) - 2 / 3 * np.log(0.1 / 1.1)
    p, square = 1 / (1 + np.exp(-logit)), theta.detach().numpy() ** 2
    assert R.expected_square().item() == pytest.approx((square * p).sum(), rel=1e-12)
    assert R.take_decay(0.3) == [theta]
    assert R.backward(0.0).item() == pytest.approx(R().item(), rel=1e-12)
    np.testing.assert_allclose(theta.grad.numpy(), 0.3 * theta.detach().numpy() * p, rtol=1e-12)
    of_gates = (0.15 * square * p * (1 - p)).reshape(-1, 1 if per == "weight" else 3).sum(1)
    np.testing.assert_allclose(log_alpha.grad.numpy(), of_gates, rtol=1e-12)


def test_plain_decay_is_left_to_the_optimizer():
    theta = torch.ones(3, requires_grad=True)
    R = L0HardConcrete([theta], decay="plain")
    assert R.take_decay(0.3) == []
    R.backward(0.1)
    assert theta.grad is None


def test_starts_at_the_drop_rate():
    for rate in (0.1, 0.5, 0.9):
        gate = L0HardConcrete([torch.ones(1, dtype=torch.float64)], droprate_init=rate).gates[0]
        assert torch.sigmoid(gate.log_alpha).item() == pytest.approx(1 - rate)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0}, r"gamma must be < 0 \(otherwise no gate is ever exactly 0\), got 0.0"),
        ({"gamma": 0.1}, r"gamma must be < 0 \(otherwise no gate is ever exactly 0\), got 0.1"),
        ({"gamma": math.nan}, r"gamma must be < 0 .*, got nan"),
        ({"zeta": 1.0}, r"zeta must be > 1 \(otherwise no gate is ever exactly 1\), got 1.0"),
        ({"zeta": math.inf}, r"zeta must be > 1 .*, got inf"),
        ({"beta": 0.0}, r"beta must be in \(0, 1\] \(the temperature of the noise\), got 0.0"),
        ({"beta": 1.5}, r"beta must be in \(0, 1\] .*, got 1.5"),
        ({"droprate_init": 0.0}, r"droprate_init must be in \(0, 1\) \(a gate must be able to learn\), got 0.0"),
        ({"droprate_init": 1.0}, r"droprate_init must be in \(0, 1\) .*, got 1.0"),
        ({"per": "filter"}, r"per must be one of weight, row, got 'filter'"),
        ({"decay": "none"}, r"decay must be one of expected, plain, got 'none'"),
    ],
)
def test_refuses_useless_arguments(arguments, message):
    with pytest.raises(ValueError, match=rf"^L0HardConcrete: {message}$"):
        L0HardConcrete([torch.ones(2)], **arguments)
