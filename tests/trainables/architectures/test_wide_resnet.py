import itertools
import math
import re

import pytest
import torch
from torch.nn import functional as F

from trainables.architectures.wide_resnet import wide_resnet


@pytest.mark.parametrize(
    ("depth", "widen_factor", "millions"),  # of parameters, for CIFAR-10: tables 4 and 5 of the paper
    [(40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (22, 8, 17.2), (16, 8, 11.0), (16, 10, 17.1), (28, 10, 36.5)],
)
def test_parameter_count(depth, widen_factor, millions):
    # A block from a to b channels: two 3x3 convolutions, norms before them, and a 1x1 shortcut if a differs from b.
    def block(a, b):
        return 9 * a * b + 9 * b * b + 2 * a + 2 * b + (0 if a == b else a * b)

    widths = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
    num_blocks = (depth - 4) // 6
    by_hand = sum(block(a, b) + (num_blocks - 1) * block(b, b) for a, b in itertools.pairwise(widths))
    by_hand += 3 * 16 * 9 + 2 * widths[-1] + 10 * widths[-1] + 10
    with torch.device("meta"):
        model = wide_resnet(10, depth=depth, widen_factor=widen_factor)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == by_hand
    assert round(count / 1e6, 1) == millions


def test_the_default_is_wrn_28_10():
    with torch.device("meta"):
        models = wide_resnet(10), wide_resnet(100)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
    assert counts == [36_479_194, 36_536_884]
    assert (
        sum(isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3) for module in models[0].modules())
        == 25
    )


@pytest.mark.parametrize(("depth", "widen_factor"), [(10, 1), (16, 2)])
def test_forward_matches_one_written_by_hand(depth, widen_factor):
    """Block by block as in figure 1c of the paper, with the shortcut of the authors' code."""
    torch.manual_seed(0)
    model = wide_resnet(7, 2, depth=depth, widen_factor=widen_factor).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or (name.endswith("weight") and tensor.dim() == 1):
            tensor.uniform_(0.5, 1.5)
    images = torch.randn(3, 2, 16, 16)
    queue = [tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")]

    def take(num):
        taken, queue[:num] = queue[:num], []
        return taken

    def norm_relu(x, parameters):
        weight, bias, mean, var = (p[:, None, None] for p in parameters)
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).clamp(min=0)

    x = F.conv2d(images, *take(1), padding=1)
    for stage in range(3):
        for block in range((depth - 4) // 6):
            stride = 2 if stage and not block else 1
            y = norm_relu(x, take(4))
            (conv1,) = take(1)
            z = norm_relu(F.conv2d(y, conv1, stride=stride, padding=1), take(4))
            z = F.conv2d(z, *take(1), padding=1)
            changes = conv1.shape[0] != conv1.shape[1]
            x = z + (F.conv2d(y, *take(1), stride=stride) if changes else x)
    x = norm_relu(x, take(4)).mean((2, 3))
    expected = x @ take(1)[0].T + take(1)[0]
    assert not queue
    torch.testing.assert_close(model(images), expected)


def test_32x32_ends_at_8x8():
    model = wide_resnet(10, depth=10, widen_factor=2)
    shapes = []
    model[-5].register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(torch.randn(2, 3, 32, 32))
    assert shapes == [(2, 128, 8, 8)]


def test_starts_from_kaiming_normal_fan_out():
    torch.manual_seed(0)
    model = wide_resnet(10, depth=10, widen_factor=4)
    for conv in (model[0], model[1].conv1, model[3].conv2):
        expected = math.sqrt(2 / (9 * conv.out_channels))  # gain of ReLU, fan_out = 3 * 3 * out_channels
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)


def test_dropout_acts_between_the_convolutions_in_training_only():
    torch.manual_seed(0)
    model = wide_resnet(10, depth=10, widen_factor=1, dropout=0.5)
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    without = wide_resnet(10, depth=10, widen_factor=1).eval()
    without.load_state_dict(model.state_dict())
    assert torch.equal(model(x), without(x))
    seen = []
    model[1].dropout.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].min().item()))
    model[1].conv2.register_forward_hook(lambda module, inputs, output: seen.append("conv2"))
    model(x)
    assert seen == [0.0, "conv2"]  # its input has passed the ReLU


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 4}, "depth must be 6 n + 4 (three stages of n blocks: 10, 16, 22, 28, ...), got 4"),
        ({"depth": 27}, "depth must be 6 n + 4 (three stages of n blocks: 10, 16, 22, 28, ...), got 27"),
        ({"depth": 2.5}, "depth must be a whole number >= 1, got 2.5"),
        ({"widen_factor": 0}, "widen_factor must be a whole number >= 1, got 0"),
        ({"dropout": 1.0}, "dropout must be in [0, 1) (a probability), got 1.0"),
        ({"dropout": -0.1}, "dropout must be in [0, 1) (a probability), got -0.1"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(f"wide_resnet: {message}")):
        wide_resnet(10, **arguments)
