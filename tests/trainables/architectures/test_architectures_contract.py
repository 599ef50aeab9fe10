"""The contract of every file of trainables/architectures/ that builds an image classifier."""

import functools
import importlib
import pkgutil

import pytest
import torch

from tests.trainables._tiny_tasks import MODELS
from trainables import architectures

OTHERS = {"causal_lm", "smp", "timm", "torchvision", "unet"}  # tested in files of their own
NAMES = [
    module.name
    for module in pkgutil.iter_modules(architectures.__path__)
    if not module.name.startswith("_") and module.name not in OTHERS
]


@pytest.fixture(params=NAMES)
def build(request):
    module = importlib.import_module(f"trainables.architectures.{request.param}")
    assert module.__all__ == [request.param]
    return functools.partial(getattr(module, request.param), **MODELS.get(request.param, {}))


@pytest.mark.parametrize(("in_channels", "size"), [(1, 8), (3, 32)])
def test_forward_and_backward(build, in_channels, size):
    model = build(7, in_channels)
    logits = model(torch.randn(2, in_channels, size, size))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_takes_rgb_images_by_default(build):
    assert build(10)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_the_seed_determines_the_weights(build):
    def weights(seed):
        torch.manual_seed(seed)
        return build(10).state_dict()

    one, same, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(
        torch.nn.utils.parameters_to_vector(one.values()), torch.nn.utils.parameters_to_vector(other.values())
    )


@pytest.mark.parametrize("counts", [(0,), (10, 0), (-1,), (2.5,)])
def test_refuses_counts_below_one(build, counts):
    name = "in_channels" if len(counts) == 2 else "num_classes"
    with pytest.raises(
        ValueError, match=f"{build.func.__name__}: {name} must be a whole number >= 1, got {counts[-1]}"
    ):
        build(*counts)
