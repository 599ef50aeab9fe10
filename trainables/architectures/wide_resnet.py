from torch import nn
from torch.nn import functional as F

from trainables.architectures._base import check_counts, init_residual

__all__ = ["wide_resnet"]


def wide_resnet(
    num_classes: int, in_channels: int = 3, *, depth: int = 28, widen_factor: int = 10, dropout: float = 0.0
) -> nn.Module:
    """Wide residual network WRN-depth-widen_factor; WRN-28-10 by default.

    A 3x3 stem of 16 channels, then three stages of (depth - 4) / 6 pre-activation basic blocks with 16, 32 and 64 times
    widen_factor channels, then BatchNorm, ReLU, average pooling and one linear layer. Each stage after the first halves
    the image. WRN-28-10 has 36,479,194 parameters for ten classes (36.5M in the paper's table 5).

    It maps images (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
        depth: Number of convolutions, 6 n + 4 with n >= 1.
        widen_factor: Factor of the channels of all three stages.
        dropout: Probability of zeroing an activation between the two convolutions of a block in training. The paper
            uses 0.3 in its runs with dropout.

    Raises:
        ValueError: If a count is below 1, depth is not 6 n + 4, or dropout is outside [0, 1).

    Reference: Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016, arXiv 1605.07146, table 1, and the authors'
    code.
    """
    counts = {"num_classes": num_classes, "in_channels": in_channels, "widen_factor": widen_factor}
    check_counts("wide_resnet", **counts, depth=depth)
    num_blocks, rest = divmod(depth - 4, 6)
    if num_blocks < 1 or rest:
        raise ValueError(
            f"wide_resnet: depth must be 6 n + 4 (three stages of n blocks: 10, 16, 22, 28, ...), got {depth}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"wide_resnet: dropout must be in [0, 1) (a probability), got {dropout!r}")
    channels = 16
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)]
    for stage in range(3):
        for block in range(num_blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(WideBlock(channels, 16 * 2**stage * widen_factor, stride=stride, dropout=dropout))
            channels = 16 * 2**stage * widen_factor
    head = [
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, num_classes),
    ]
    return init_residual(nn.Sequential(*layers, *head))


class WideBlock(nn.Module):
    """Pre-activation block: shortcut + conv(dropout(relu(bn(conv(y))))), y = relu(bn(x)).

    The convolutions are 3x3, and the first one has the stride. The shortcut is x or, where the shape changes, a 1x1
    convolution of y.
    """

    def __init__(self, in_channels, channels, *, stride, dropout):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        same_shape = stride == 1 and in_channels == channels
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x):  # (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
        y = F.relu(self.bn1(x))
        residual = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(y)))))
        return residual + (x if self.shortcut is None else self.shortcut(y))
