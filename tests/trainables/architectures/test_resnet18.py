import math

import pytest
import torch

from trainables.architectures.resnet18 import resnet18


def test_parameter_count():
    # Weights and norm scales: stem 3*64*9 + 128; stages, two blocks of two 3x3 convolutions each and, from the second
    # stage on, a 1x1 shortcut; 512 * 10 + 10. This is the usual count for the CIFAR version of ResNet-18.
    def stage(before, after):
        shortcut = 0 if before == after else before * after + 2 * after
        return 9 * (before * after + 3 * after**2) + 4 * 2 * after + shortcut

    by_hand = 3 * 64 * 9 + 128 + stage(64, 64) + stage(64, 128) + stage(128, 256) + stage(256, 512) + 5130
    count = sum(parameter.numel() for parameter in resnet18(10).parameters())
    assert count == by_hand == 11_173_962


def test_32x32_is_4x4_before_pooling():
    model = resnet18(10)
    shapes = []
    model.avgpool.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].shape))
    model(torch.randn(2, 3, 32, 32))
    assert shapes == [(2, 512, 4, 4)]


def test_stem_and_stages_start_from_kaiming_normal_fan_out():
    torch.manual_seed(0)
    model = resnet18(10)
    for conv in (model.conv1, model.layer4[1].conv2):
        expected = math.sqrt(2 / (9 * conv.out_channels))  # gain of ReLU, fan_out = 3 * 3 * out_channels
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("width", [1, 8, 20])
def test_width_scales_every_stage(width):
    model = resnet18(10, width=width)
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1:]))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(width, 32, 32), (2 * width, 16, 16), (4 * width, 8, 8), (8 * width, 4, 4)]
    names = [name for name, _ in resnet18(10).named_parameters()]
    assert [name for name, _ in model.named_parameters()] == names
    with pytest.raises(ValueError, match="resnet18: width must be a whole number >= 1, got 0"):
        resnet18(10, width=0)


def test_the_default_width_has_the_recorded_initial_weights():
    torch.manual_seed(0)
    model = resnet18(10)
    # Recorded before `width` existed: the same seed must keep giving the same run.
    expected = [0.12636622786521912, 0.040844179689884186, -0.020315496250987053]
    drawn = [model.conv1.weight[0, 0, 0, 0], model.layer1[0].conv1.weight[0, 0, 0, 0], model.fc.weight[0, 0]]
    assert [weight.item() for weight in drawn] == pytest.approx(expected, rel=1e-6)
