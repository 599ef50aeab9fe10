import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainables._tiny_tasks import convolutions
from trainables.pruning import describe_layers, diagnose, evaluate_pruned


def test_layer_statistics_equal_numpys(trained, tiny):
    task, model = trained
    masks = evaluate_pruned(task, model, tiny(), (0.9,), "validation").masks[0.9]
    layers = describe_layers(task, model, masks)
    assert [layer["name"] for layer in layers] == list(convolutions(model))
    for layer, weight in zip(layers, convolutions(model).values(), strict=True):
        a = np.abs(weight.detach().numpy().astype(np.float64))
        mask = masks[layer["name"]].numpy()
        assert layer["shape"] == list(a.shape)
        assert layer["num_weights"] == a.size
        assert layer["num_kept"] == mask.sum()
        assert layer["abs_mean"] == pytest.approx(a.mean(), rel=1e-12)
        assert layer["abs_variance"] == pytest.approx((a**2).mean() - a.mean() ** 2, rel=1e-9)
        assert layer["hoyer"] == pytest.approx(a.sum() ** 2 / (a.size * (a**2).sum()), rel=1e-12)
        assert layer["energy_kept"] == pytest.approx((a[mask] ** 2).sum() / (a**2).sum(), rel=1e-12)
        counts, _ = np.histogram(np.log10(a), bins=60, range=(-8, 2))
        assert layer["histogram"] == counts.tolist()
        assert sum(layer["histogram"]) == a.size


def test_layer_statistics_of_extreme_weights_are_finite(trained):
    """A layer of zeros, one with a single weight, one beyond the histogram: every weight is counted."""
    task, model = trained
    model = copy.deepcopy(model)
    zero, single, wide, *_ = weights = list(convolutions(model).values())
    with torch.no_grad():
        zero.zero_()
        single.zero_()[0, 0, 0, 0] = 0.5
        wide.fill_(1e-20)[0] = 1e20
    masks = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in convolutions(model).items()}
    layers = describe_layers(task, model, masks)
    json.dumps(layers, allow_nan=False)
    assert [layer["energy_kept"] for layer in layers] == [0.0] * len(weights)
    assert (layers[0]["hoyer"], layers[0]["histogram"][0]) == (1.0, zero.numel())
    assert layers[1]["hoyer"] == pytest.approx(1 / single.numel(), rel=1e-12)
    assert layers[1]["histogram"][46] == 1  # log10(0.5) = -0.301 in bins of 1/6 from -8: (7.699 * 6) = 46.2
    assert (layers[2]["histogram"][0], layers[2]["histogram"][-1]) == (wide.numel() * 3 // 4, wide.numel() // 4)
    assert math.isfinite(layers[2]["hoyer"])


def test_loss_gap_and_sharpness(trained, tiny):
    task, model = trained
    evaluation = evaluate_pruned(task, model, tiny(), (0.0, 0.5), "validation")
    found = diagnose(task, model, tiny(), evaluation)
    assert found == {"loss_gap": evaluation.metrics[0.5]["loss"] - evaluation.metrics[0.0]["loss"]}
    sharp = diagnose(task, model, tiny(num_sharpness_batches=1), evaluation)["sharpness"]
    plain = copy.deepcopy(model).eval()  # the curvature along any direction is at most the largest eigenvalue
    images, labels = next(task.batches("train", 1024))
    parameters = list(plain.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(plain(images), labels), parameters, create_graph=True)
    norm = torch.stack([g.square().sum() for g in gradients]).sum()
    product = torch.autograd.grad(norm, parameters)
    curvature = sum((g * p).sum() for g, p in zip(gradients, product, strict=True)) / (2 * norm)
    assert 0 < curvature.item() <= sharp * 1.01
