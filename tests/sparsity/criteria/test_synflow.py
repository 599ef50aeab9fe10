import itertools

import numpy as np
import pytest
import torch
from torch import nn

from sparsity import masks
from sparsity.criteria.synflow import synflow


def chain(*widths, bias=True):
    torch.manual_seed(0)
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b, bias=bias), nn.ReLU())]
    net = nn.Sequential(*layers[:-1]).eval()
    return net, [m.weight for m in net if isinstance(m, nn.Linear)]


def path_sums(weights):
    """|w| * dR/d|w| of a chain, by matrix products: paths into the weight, the weight, paths out of it."""
    absolute = [np.abs(w) for w in weights]
    scores = []
    for i, w in enumerate(absolute):
        into, out = np.ones(absolute[0].shape[1]), np.ones(absolute[-1].shape[0])
        for before in absolute[:i]:
            into = before @ into
        for after in reversed(absolute[i + 1 :]):
            out = out @ after
        scores.append(out[:, None] * w * into)
    return scores


def test_one_round_is_the_product_of_weights_over_all_paths():
    net, weights = chain(3, 5, 4, 2)
    scores = synflow(weights, model=net, inputs=torch.zeros(7, 3), num_rounds=1)
    expected = path_sums([w.detach().double().numpy() for w in weights])
    for score, want in zip(scores, expected, strict=True):
        assert score.dtype is torch.float64
        np.testing.assert_allclose(score, want, rtol=1e-12)
    assert [s.sum().item() for s in scores] == pytest.approx([expected[0].sum()] * 3)  # conserved: R in every layer


def test_batchnorm_scales_only():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).eval()
    norm = net[1]
    for t in (norm.weight.data, norm.bias.data, norm.running_mean):
        t.normal_()
    norm.running_var.uniform_(0.5, 2)
    conv, linear = synflow([net[0].weight, net[4].weight], model=net, inputs=torch.zeros(1, 2, 3, 3), num_rounds=1)
    scale = (norm.weight.double().abs() / (norm.running_var.double() + norm.eps).sqrt()).detach()
    W, V = net[0].weight.detach().double().abs(), net[4].weight.detach().double().abs()
    out = V.sum(0).view(3, 4).sum(1)  # of each channel's four positions
    torch.testing.assert_close(conv, W * (out * scale).view(3, 1, 1, 1))
    torch.testing.assert_close(linear, V * (W.sum((1, 2, 3)) * scale).repeat_interleave(4))


def test_rounds_are_the_sources_loop():
    net, weights = chain(4, 6, 5, 3)
    arrays = [w.detach().double().numpy().copy() for w in weights]
    n = sum(a.size for a in arrays)
    for k in range(1, 6):  # the source: score what is left, keep density^(k/T) of all
        flat = np.concatenate([s.ravel() for s in path_sums(arrays)])
        kept = np.sort(np.argsort(flat, kind="stable")[n - round(0.1 ** (k / 5) * n) :])
        mask = np.isin(np.arange(n), kept)
        ends = np.cumsum([a.size for a in arrays])[:-1]
        arrays = [a * part.reshape(a.shape) for a, part in zip(arrays, np.split(mask, ends), strict=True)]
    scores = synflow(weights, model=net, inputs=torch.zeros(1, 4), num_rounds=5, density=0.1)
    assert torch.cat([s.flatten() for s in scores]).sort().values.tolist() == list(range(n))  # places: no ties
    result = masks.prune(scores, 1 - round(0.1 * n) / n)
    for got, expected in zip(result, arrays, strict=True):
        assert got.tolist() == (expected != 0).tolist()


def test_rounds_keep_a_layer_that_one_round_loses():
    net, weights = chain(5, 60, 60, 3)
    lost = masks.prune(synflow(weights, model=net, inputs=torch.zeros(1, 5), num_rounds=1), 0.97)
    kept = masks.prune(synflow(weights, model=net, inputs=torch.zeros(1, 5)), 0.97)
    assert min(int(m.sum()) for m in lost) == 0
    assert min(int(m.sum()) for m in kept) > 0


def test_depth_does_not_overflow():
    net, weights = chain(*[40] * 40, bias=False)
    for w in weights:
        w.data.mul_(40)  # R about 40^(2 * 39) / 10^39: beyond float32
    scores = synflow(weights, model=net, inputs=torch.zeros(1, 40), num_rounds=1)
    assert all(s.isfinite().all() for s in scores)
    assert scores[0].sum() > torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rounds": 0}, "synflow: num_rounds must be a whole number >= 1, got 0"),
        ({"num_rounds": np.inf}, "synflow: num_rounds must be a whole number >= 1, got inf"),
        ({"num_rounds": 1.5}, "synflow: num_rounds must be a whole number >= 1, got 1.5"),
        ({"density": 0.0}, "synflow: density must be in (0, 1] (what the last round leaves), got 0.0"),
        ({"density": 1.1}, "synflow: density must be in (0, 1] (what the last round leaves), got 1.1"),
    ],
)
def test_bad_arguments_get_one_clear_line(arguments, message):
    net, weights = chain(2, 2)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        synflow(weights, model=net, inputs=torch.zeros(1, 2), **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("num_rounds", [1, 2])
@pytest.mark.parametrize(
    ("layers", "got"),
    [
        ([nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)], r"a score of -.* in 0\.weight"),
        ([nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.ReLU(), nn.Linear(6, 2)], r"a score of -.* in 0\.weight"),
        ([nn.LayerNorm(4), nn.Linear(4, 2)], "scores of 0 for all weights, none of which is 0"),
    ],
    ids=["LayerNorm", "GroupNorm", "LayerNorm of the input"],
)
def test_networks_that_are_not_sums_over_paths_are_refused(layers, got, num_rounds):
    torch.manual_seed(0)
    net = nn.Sequential(*layers).eval()
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    weights = [p for p in net.parameters() if p.dim() == 2]
    with pytest.raises(ValueError, match=rf"^synflow: the network must only add and scale .*, got {got}"):
        synflow(weights, model=net, inputs=torch.zeros(1, 4), num_rounds=num_rounds)


def test_a_pruned_network_without_any_path_is_scored():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        net[0].weight[0], net[1].weight[0, 1] = 0, 0  # no path is left
    for score in synflow([net[0].weight, net[1].weight], model=net, inputs=torch.zeros(1, 2), num_rounds=1):
        assert not score.any()
