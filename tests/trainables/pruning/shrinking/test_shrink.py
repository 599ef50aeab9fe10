import copy
import functools
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_leaves

import sparsity
from tests.trainables.pruning.shrinking._networks import NETWORKS
from trainables.pruning.shrinking import resize, shrink, trace
from trainables.pruning.shrinking.tracing import tensors_in

EXAMPLES = int(os.environ.get("EXAMPLES", "2"))  # random weights of each network; 100 take half an hour


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
@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32), zeros=st.floats(0, 1.4), multiple_of=st.sampled_from([1, 1, 4]))
def test_the_output_is_the_same_at_two_sizes(name, seed, zeros, multiple_of):
    model, graph, inputs = traced(name)
    randomize(model, seed, zeros)
    shrunk = shrink(model, inputs[0], multiple_of=multiple_of, graph=graph)
    if name != "WrittenSizes":
        assert shrunk.note == ""
    assert_same(model, shrunk.model, inputs)


def chain(*convolutions):
    """Convolutions with BatchNorm, which changes nothing, and ReLU between them; float64, weights of 1."""
    layers = []
    for convolution in convolutions:
        nn.init.ones_(convolution.weight)
        layers += [convolution, nn.BatchNorm2d(convolution.out_channels, eps=0), nn.ReLU()]
    return nn.Sequential(*layers[:-2]).double().eval()


def widths(model):
    return [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]


IMAGE = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_unread_channels_go_with_all_that_feeds_them_alone():
    model = chain(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Conv2d(5, 4, 3))
    model[6].weight[:, 2:] = 0  # the last layer reads two of five channels
    model[3].weight[:2, 1:] = 0  # and those read one of six
    shrunk = shrink(model, IMAGE)
    assert widths(shrunk.model) == [1, 2, 4]
    # by hand: 3 x 3 kernels on 9 x 9 pixels give 7 x 7, 5 x 5 and 3 x 3
    assert shrunk.after.macs == 9 * (3 * 1 * 49 + 1 * 2 * 25 + 2 * 4 * 9)
    assert shrunk.before.macs == 9 * (3 * 6 * 49 + 6 * 5 * 25 + 5 * 4 * 9)
    assert shrunk.after.layers["3"].macs == 9 * 1 * 2 * 25
    assert shrunk.after.parameters == (27 + 1 + 2) + (18 + 2 + 4) + (72 + 4)
    assert_same(model, shrunk.model, [IMAGE])


@torch.no_grad()
@pytest.mark.parametrize(
    ("shift", "reader", "width", "bias"),
    [
        (-1.0, {"padding": 1, "bias": False}, 3, False),  # zero after ReLU: dropped
        (2.0, {"bias": False}, 3, True),  # folded into a bias that the layer did not have
        (2.0, {"padding": 1, "bias": False}, 4, False),  # three constants merged into one
        (2.0, {"padding": 1, "padding_mode": "reflect", "bias": False}, 3, True),  # no border sees the padding
    ],
)
def test_constant_channels_go(shift, reader, width, bias):
    model = chain(nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 4, 3, **reader))
    model[0].weight[3:] = 0
    model[1].bias[3:] = torch.tensor([1.0, 0.5, 0.25]) * shift
    model[3].weight.copy_(torch.randn(model[3].weight.shape, generator=torch.Generator().manual_seed(1)))
    shrunk = shrink(model, IMAGE)
    assert widths(shrunk.model) == [width, 4]
    assert (shrunk.model[3].bias is not None) == bias
    larger = torch.randn(1, 3, 14, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert_same(model, shrunk.model, [IMAGE, larger])


@torch.no_grad()
def test_dead_layer_and_dead_stem_keep_one_channel():
    model = chain(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Conv2d(5, 4, 3))
    model[3].weight.zero_()
    shrunk = shrink(model, IMAGE)
    assert widths(shrunk.model) == [1, 1, 4]
    assert_same(model, shrunk.model, [IMAGE])


@torch.no_grad()
def test_depthwise_channels_go_and_grouped_ones_in_groups():
    model = chain(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 2, 1))
    model[9].weight[:, [0, 1, 2]] = 0  # of the four groups of two channels, the first is not read
    shrunk = shrink(model, IMAGE)
    assert widths(shrunk.model) == [6, 6, 6, 2]
    assert [shrunk.model[i].groups for i in (0, 3, 6, 9)] == [1, 6, 3, 1]
    assert_same(model, shrunk.model, [IMAGE])


@torch.no_grad()
def test_channels_that_a_normalization_over_groups_sees_stay():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 4, 1)).double()
    model[2].weight[:, :3] = 0
    assert widths(shrink(model, IMAGE).model) == [6, 4]


@torch.no_grad()
def test_widths_are_rounded_up_to_a_multiple():
    model = chain(nn.Conv2d(3, 20, 3), nn.Conv2d(20, 4, 3))
    model[3].weight[:, 9:] = 0
    shrunk = shrink(model, IMAGE, multiple_of=8)
    assert widths(shrunk.model) == [16, 4]
    assert_same(model, shrunk.model, [IMAGE])


@torch.no_grad()
def test_tolerance_counts_small_weights_as_zero():
    model = chain(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3))
    model[3].weight[:, 2:] = 3e-6
    assert widths(shrink(model, IMAGE).model) == [6, 4]
    shrunk = shrink(model, IMAGE, tolerance=1e-5)
    assert (widths(shrunk.model), shrunk.exact) == ([2, 4], False)
    assert shrink(model, IMAGE).exact


def test_network_is_rebuilt_from_its_architecture_and_json():
    for name in ("Depthwise", "PaddedReaders", "TransposedConvolutions"):
        model, graph, inputs = traced(name)
        randomize(model, 3, 1.3)
        shrunk = shrink(model, inputs[0], graph=graph)
        again = resize(NETWORKS[name][0]().double().eval(), json.loads(json.dumps(shrunk.changes)))
        again.load_state_dict(shrunk.model.state_dict())
        assert shrunk.changes["shapes"], name
        assert_same(shrunk.model, again, inputs)


@torch.no_grad()
def test_tied_tensors_stay_tied():
    model, graph, inputs = traced("Tied")
    randomize(model, 3, 0.0)
    for tensor in (model.encoder.weight, model.encoder.bias, model.hidden.weight, model.hidden.bias):
        tensor[3] = 0
    model.hidden.weight[:, 3] = 0
    shrunk = shrink(model, inputs[0], graph=graph)
    assert shrunk.changes["shapes"]["alias.weight"] == shrunk.changes["shapes"]["hidden.weight"] == [9, 9]
    again = resize(NETWORKS["Tied"][0]().double().eval(), shrunk.changes)
    assert again.alias.weight is again.hidden.weight
    again.load_state_dict(shrunk.model.state_dict())
    assert_same(model, again, inputs)


def test_outputs_that_are_rounding_errors_may_differ_by_as_much():
    """BatchNorm over the batch turns a constant channel into its rounding errors, times 1 / sqrt(eps)."""
    model, graph, inputs = traced("BatchNormWithout")
    randomize(model, 144790877, 1.0)
    shrunk = shrink(model, inputs[0], graph=graph)
    assert shrunk.note == ""
    assert_same(model, shrunk.model, inputs)


def test_shrunk_network_shrinks_no_further():
    for name in ("PaddedReaders", "Residual"):
        model, graph, inputs = traced(name)
        randomize(model, 1, 1.2)
        once = shrink(model, inputs[0], graph=graph)
        twice = shrink(once.model, inputs[0])
        assert twice.after.parameters == once.after.parameters < once.before.parameters


def test_model_is_not_changed():
    model, graph, inputs = traced("Residual")
    randomize(model, 1, 1.2)
    model.train()
    before = copy.deepcopy(model.state_dict())
    shrink(model, inputs[0], graph=graph)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    model.eval()


def test_code_with_numbers_of_channels_keeps_them_and_says_so():
    model, graph, inputs = traced("WrittenSizes")
    randomize(model, 1, 0.0)
    with torch.no_grad():
        model.conv[0].weight[:4] = 0
        model.conv[1].bias[:4] = -9
    shrunk = shrink(model, inputs[0], graph=graph)
    assert "number" in shrunk.note
    assert widths(shrunk.model) == [8]


def test_forward_that_cannot_be_traced_is_one_clear_line():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"shrink: model must have a forward that torch.export can trace .* Branches"):
        shrink(Branches(), IMAGE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"multiple_of": 0}, "shrink: multiple_of must be a whole number >= 1, got 0"),
        ({"tolerance": -1}, "shrink: tolerance must be >= 0"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        shrink(nn.Conv2d(3, 4, 1), IMAGE, **given)


def test_changes_of_another_network_are_refused():
    with pytest.raises(ValueError, match="resize: changes must be those of a shrunk Conv2d, got AttributeError"):
        resize(nn.Conv2d(3, 4, 1), {"shapes": {"other.weight": [1]}, "attributes": {}})
    with pytest.raises(ValueError, match=r"must fit Conv2d, where the shape of weight is \(4, 3, 1, 1\), got \(5, "):
        resize(nn.Conv2d(3, 4, 1), {"shapes": {"weight": [5, 3, 1, 1]}, "attributes": {}})


SMALL_VIT = {"num_classes": 4, "image_size": 16, "patch_size": 4, "hidden_size": 16, "num_layers": 2, "num_heads": 2}


def architecture(name, *args, **arguments):
    return sparsity.load("trainables.architectures", name)(*args, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "shapes", "smaller"),
    [
        ("small_resnet", {"num_classes": 10, "in_channels": 1}, [(2, 1, 8, 8), (1, 1, 11, 9)], 0.8),
        ("resnet18", {"num_classes": 10, "width": 16}, [(1, 3, 32, 32), (2, 3, 40, 24)], 0.8),
        ("wide_resnet", {"num_classes": 10, "depth": 10, "widen_factor": 1}, [(1, 3, 32, 32), (2, 3, 24, 16)], 0.8),
        ("unet", {"encoder": "resnet18", "decoder_width": 4}, [(1, 3, 32, 32), (1, 3, 64, 32)], 0.8),
        (
            "vit",
            SMALL_VIT,
            [(2, 3, 16, 16), (1, 3, 20, 12)],
            1.0,
        ),
        ("causal_lm", {"base": "tiny-qwen2", "vocab_size": 50, "hidden_size": 16}, [(2, 7), (1, 12)], 1.0),
    ],
)
def test_every_architecture_is_shrunk_exactly(name, arguments, shapes, smaller):
    torch.manual_seed(0)
    model = architecture(name, **arguments).double().eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                layer.weight[torch.rand(layer.weight.shape) < 0.5] = 0
                layer.weight[torch.rand(len(layer.weight)) < 0.3] = 0
        elif isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight.data, layer.bias.data, layer.running_mean):
                tensor.normal_()
    tokens = name == "causal_lm"
    inputs = [torch.randint(0, 50, s) if tokens else torch.randn(s, dtype=torch.float64) for s in shapes]
    shrunk = shrink(model, inputs[0])
    assert shrunk.note == ""
    assert 0 < shrunk.after.macs < smaller * shrunk.before.macs
    for x in inputs:
        with torch.no_grad():
            expected, got = (tensors_in(network(x)) for network in (model, shrunk.model))
        for one, other in zip(expected, got, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
