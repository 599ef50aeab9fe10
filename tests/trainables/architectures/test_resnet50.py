import pytest
import torch
from torch.nn import functional as F

from trainables.architectures.resnet50 import resnet50

BLOCKS = (3, 4, 6, 3)


def test_parameter_count():
    # Stem 3*64*9 + 128; a bottleneck block: 1x1 to c, 3x3 of c, 1x1 to 4 c, each with its norm's scales; the first of a
    # stage has a 1x1 shortcut. This is the usual count for the CIFAR version of ResNet-50.
    count, before = 3 * 64 * 9 + 128 + 2048 * 10 + 10, 64
    for stage, num_blocks in enumerate(BLOCKS):
        c = 64 * 2**stage
        for block in range(num_blocks):
            count += before * c + 9 * c * c + 4 * c * c + 2 * (c + c + 4 * c)
            count += before * 4 * c + 2 * 4 * c if block == 0 else 0
            before = 4 * c
    assert sum(parameter.numel() for parameter in resnet50(10).parameters()) == count == 23_520_842


@pytest.mark.parametrize("width", [64, 6])
def test_32x32_is_4x4_before_pooling(width):
    model = resnet50(10, width=width)
    shapes = []
    model.avgpool.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].shape))
    model(torch.randn(2, 3, 32, 32))
    assert shapes == [(2, 32 * width, 4, 4)]


@pytest.mark.parametrize("width", [1, 6, 8])
def test_forward_matches_one_written_by_hand(width):
    torch.manual_seed(0)
    model = resnet50(7, 2, width=width).eval()
    state = model.state_dict()
    for name in state:  # statistics and scales other than 0 and 1
        if name.endswith(("running_mean", "running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
            state[name].uniform_(0.5, 1.5)
    x = images = torch.randn(3, 2, 16, 16)

    def conv_norm(x, conv, norm, stride):
        weight = state[f"{conv}.weight"]
        z = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(z, *(state[f"{norm}.{name}"] for name in names))

    x = F.relu(conv_norm(x, "conv1", "bn1", 1))
    for stage, num_blocks in enumerate(BLOCKS, 1):
        for block in range(num_blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(conv_norm(x, f"{name}.conv1", f"{name}.bn1", 1))
            y = F.relu(conv_norm(y, f"{name}.conv2", f"{name}.bn2", stride))
            y = conv_norm(y, f"{name}.conv3", f"{name}.bn3", 1)
            shortcut = conv_norm(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if block == 0 else x
            x = F.relu(y + shortcut)
    expected = x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("width", [0, -8, 2.5])
def test_refuses_a_width_below_one(width):
    with pytest.raises(ValueError, match=f"resnet50: width must be a whole number >= 1, got {width}"):
        resnet50(10, width=width)
