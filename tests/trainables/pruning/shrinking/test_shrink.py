import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from tests.trainables.pruning.shrinking._networks import NETWORKS
from trainables.pruning.shrinking import shrink, trace


@functools.cache
def traced(name):
    """A network, what trace returns for it, and inputs of two sizes."""
    torch.manual_seed(0)
    make, shapes = NETWORKS[name]
    model = make().double().eval()
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    return model, trace(model, inputs[0]), inputs


def randomize(model, seed, zeros):
    """Random weights with zeros: single ones, whole rows and whole columns, and biases of both signs."""
    generator = torch.Generator().manual_seed(seed)

    def chance(*shape):
        return torch.rand(shape, generator=generator) < zeros * torch.rand((), generator=generator)

    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or name.endswith("mask"):
                continue
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
            elif tensor.ndim > 1:
                tensor.mul_(3 / tensor[0].numel() ** 0.5)
                tensor[chance(*tensor.shape)] = 0
                tensor[chance(len(tensor))] = 0
                tensor[:, chance(tensor.shape[1])] = 0
            else:
                tensor[chance(len(tensor))] = 0


def assert_same(model, smaller, inputs):
    """Equal outputs in float64; a network with zeros everywhere may return NaN."""
    for x in inputs:
        with torch.no_grad():
            expected, got = tree_leaves(model(x)), tree_leaves(smaller(x))
        assert len(expected) == len(got)
        for one, other in zip(expected, got, strict=True):
            if isinstance(one, torch.Tensor):
                assert one.shape == other.shape
                torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32), zeros=st.floats(0, 1.4), multiple_of=st.sampled_from([1, 1, 4]))
def test_the_output_is_the_same_at_two_sizes(name, seed, zeros, multiple_of):
    model, graph, inputs = traced(name)
    randomize(model, seed, zeros)
    shrunk = shrink(model, inputs[0], multiple_of=multiple_of, graph=graph)
    if name != "WrittenSizes":
        assert shrunk.note == ""
    assert_same(model, shrunk.model, inputs)
