import math

import pytest
import torch

from trainables.architectures.resnet18 import resnet18


def test_parameter_count():
    # Weights and norm scales: stem 3*64*9 + 128; stages, two blocks of two 3x3 convolutions each and, from the second
    # stage on, a 1x1 shortcut; 512 * 10 + 10. It is the count usually given for the CIFAR form of ResNet-18.
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
