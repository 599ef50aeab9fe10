from torch import nn
from torch.nn import functional as F

from trainables.architectures._base import check_counts, init_residual

__all__ = ["small_resnet"]


def small_resnet(num_classes: int, in_channels: int = 3, *, width: int = 16, depth: int = 3) -> nn.Module:
    """A residual network that trains in seconds on a CPU.

    It takes images of 8x8 pixels or more. A 3x3 stem, `depth` basic blocks, average pooling and one linear layer. The
    blocks are spread evenly over min(depth, 3) stages; earlier stages take the remainder. The stages have `width`, 2
    `width` and 4 `width` channels, and each after the first halves the image. Where the shape changes, the shortcut is
    a 1x1 convolution (the paper's option B).

    It maps images (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
        width: Channels of the first stage.
        depth: Number of blocks.

    Raises:
        ValueError: If a count is below 1.

    Reference: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """
    check_counts("small_resnet", num_classes=num_classes, in_channels=in_channels, width=width, depth=depth)
    num_stages = min(depth, 3)
    layers = [*_conv_bn(in_channels, width, kernel_size=3, stride=1), nn.ReLU()]
    channels = width
    for stage in range(num_stages):
        for block in range(depth // num_stages + (stage < depth % num_stages)):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(BasicBlock(channels, width * 2**stage, stride=stride))
            channels = width * 2**stage
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return init_residual(nn.Sequential(*layers, *head))


class BasicBlock(nn.Module):
    """Basic block: relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))).

    The convolutions are 3x3, and the first one has the stride.
    """

    def __init__(self, in_channels, channels, *, stride):
        super().__init__()
        self.conv1, self.bn1 = _conv_bn(in_channels, channels, kernel_size=3, stride=stride)
        self.conv2, self.bn2 = _conv_bn(channels, channels, kernel_size=3, stride=1)
        same_shape = stride == 1 and in_channels == channels
        self.shortcut = (
            nn.Identity()
            if same_shape
            else nn.Sequential(*_conv_bn(in_channels, channels, kernel_size=1, stride=stride))
        )

    def forward(self, x):  # (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + residual)


def _conv_bn(in_channels, channels, *, kernel_size, stride):
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return conv, nn.BatchNorm2d(channels)
