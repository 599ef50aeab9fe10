import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparsity.criteria.grasp import grasp


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().mean() / 2


def test_matches_the_closed_form_of_least_squares():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(20, 3)), rng.normal(size=(20, 1)), rng.normal(size=(1, 3))
    H, g = x.T @ x / 20, x.T @ (x @ w.T - y) / 20
    model = nn.Linear(3, 1, bias=False).double().eval()
    model.weight.data = torch.tensor(w)
    (score,) = grasp(
        [model.weight], model=model, batch=(torch.tensor(x), torch.tensor(y)), loss_fn=squares, temperature=1
    )
    np.testing.assert_allclose(score, w * (H @ g).T)


def test_products_of_half_precision_are_float32():
    """w = 2^-13 and H g = 2^-13; float16 rounds their product to 0."""
    model = nn.Linear(1, 1, bias=False).half().eval()
    model.weight.data.fill_(2.0**-13)
    batch = (torch.ones(1, 1).half(), torch.zeros(1, 1).half())
    (score,) = grasp([model.weight], model=model, batch=batch, loss_fn=squares, temperature=1)
    assert score.item() == 2.0**-26


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    return model, [model[0].weight, model[2].weight], (torch.randn(10, 4).double(), torch.arange(10) % 3)


@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_is_half_the_gradient_flow_lost_to_first_order(temperature):
    model, weights, batch = network()

    def loss_fn(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def flow():
        loss = F.cross_entropy(model(batch[0]) / temperature, batch[1])
        return sum(g.square().sum() for g in torch.autograd.grad(loss, weights)).item()

    scores = grasp(weights, model=model, batch=batch, loss_fn=loss_fn, temperature=temperature)
    eps = 1e-5
    for weight, score, i in ((weights[0], scores[0], (2, 1)), (weights[1], scores[1], (0, 4))):
        w = weight[i].item()
        flows = []
        for factor in (1 + eps, 1 - eps):
            weight.data[i] = w * factor
            flows.append(flow())
        weight.data[i] = w
        assert score[i].item() == pytest.approx((flows[0] - flows[1]) / (4 * eps), rel=1e-6)


def test_weights_that_the_loss_ignores_score_zero():
    model, weights, batch = network()

    def loss_fn(model, batch):
        return (model(batch[0]).detach() * model[2].bias).sum()

    assert not any(s.any() for s in grasp(weights, model=model, batch=batch, loss_fn=loss_fn))


def test_a_loss_that_does_not_call_the_model_is_refused():
    """The temperature would not act on it."""
    model, weights, batch = network()
    with pytest.raises(ValueError, match=r"^grasp: loss_fn must call model\(...\), .*, got no call$"):
        grasp(weights, model=model, batch=batch, loss_fn=lambda model, batch: model.forward(batch[0]).square().sum())


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_a_bad_temperature_is_refused(temperature):
    model, weights, batch = network()
    with pytest.raises(ValueError, match=rf"^grasp: temperature must be > 0 and finite .*, got {temperature}$"):
        grasp(weights, model=model, batch=batch, loss_fn=squares, temperature=temperature)


def test_frozen_weights_are_refused():
    model, weights, batch = network()
    weights[1].requires_grad_(False)
    with pytest.raises(ValueError, match=r"^grasp: weights must require gradients, got the frozen 2\.weight$"):
        grasp(weights, model=model, batch=batch, loss_fn=squares)


def test_a_loss_without_a_graph_is_refused():
    model, weights, batch = network()
    with pytest.raises(ValueError, match=r"^grasp: loss_fn must return a differentiable loss, got one without a"):
        grasp(weights, model=model, batch=batch, loss_fn=lambda model, batch: model(batch[0]).detach().sum())


def test_scores_are_zero_where_the_hessian_is():
    """The loss is linear in the weights of a single layer."""
    model = torch.nn.Linear(4, 3).eval()
    scores = grasp([model.weight], model=model, batch=torch.randn(5, 4), loss_fn=lambda model, x: model(x).mean())
    assert [s.tolist() for s in scores] == [[[0.0] * 4] * 3]
