import pytest
import torch

from trainables.architectures.small_resnet import BasicBlock, small_resnet


def test_parameter_count_of_the_default():
    stem = 9 * 16 + 32
    block_1 = 2 * 9 * 16 * 16 + 64  # no shortcut convolution: the shape is unchanged
    block_2 = 9 * 16 * 32 + 9 * 32 * 32 + 128 + (16 * 32 + 64)
    block_3 = 9 * 32 * 64 + 9 * 64 * 64 + 256 + (32 * 64 + 128)
    linear = 64 * 10 + 10
    count = sum(parameter.numel() for parameter in small_resnet(10, in_channels=1).parameters())
    assert count == stem + block_1 + block_2 + block_3 + linear == 77_754


@pytest.mark.parametrize(
    ("depth", "shapes"),  # (channels, height) after each block, for width 4 and an 8x8 image
    [
        (1, [(4, 8)]),
        (2, [(4, 8), (8, 4)]),
        (3, [(4, 8), (8, 4), (16, 2)]),
        (5, [(4, 8), (4, 8), (8, 4), (8, 4), (16, 2)]),
        (6, [(4, 8), (4, 8), (8, 4), (8, 4), (16, 2), (16, 2)]),
    ],
)
def test_depth_counts_blocks_over_up_to_three_stages(depth, shapes):
    model = small_resnet(10, 1, width=4, depth=depth)
    seen = []
    for module in model:
        if isinstance(module, BasicBlock):
            module.register_forward_hook(lambda module, inputs, output: seen.append((output.shape[1], output.shape[2])))
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert seen == shapes


def test_block_without_its_residual_is_the_rectified_shortcut():
    x = torch.randn(2, 4, 8, 8)
    block = BasicBlock(4, 4, stride=1)
    torch.nn.init.zeros_(block.bn2.weight)
    assert torch.equal(block(x), x.clamp(min=0))
    halved = BasicBlock(4, 8, stride=2).eval()
    torch.nn.init.zeros_(halved.bn2.weight)
    shortcut = torch.einsum("oi,nihw->nohw", halved.shortcut[0].weight[:, :, 0, 0], x[:, :, ::2, ::2])
    torch.testing.assert_close(
        halved(x), (shortcut / (1 + 1e-5) ** 0.5).clamp(min=0)
    )  # BatchNorm with mean 0, variance 1


@pytest.mark.parametrize("arguments", [{"width": 0}, {"depth": 0}, {"width": -4}, {"depth": 1.5}])
def test_refuses_width_and_depth_below_one(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"small_resnet: {name} must be a whole number >= 1, got {value}"):
        small_resnet(10, **arguments)
