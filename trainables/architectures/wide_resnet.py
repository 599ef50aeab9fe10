from torch import nn
from torch.nn import functional as F

from trainables.architectures._base import check_counts, init_residual

__all__ = ["wide_resnet"]


def wide_resnet(num_classes, in_channels=3, *, depth=28, widen_factor=10, dropout=0.0):
    """WRN-depth-widen_factor, a wide residual network; WRN-28-10 by default.

    A 3x3 stem of 16 channels, three stages of (depth - 4) / 6 pre-activation basic blocks with 16, 32 and 64 times
    widen_factor channels, each after the first halving the image, then BatchNorm, ReLU, the mean over positions and one
    linear layer. Source: Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv 1605.07146), table 1 and
    the authors' code. 36,479,194 parameters for ten classes (36.5M in its table 5).
    dropout: probability that an activation between the two convolutions of a block is zeroed in training; 0.3 in the
        paper's runs with it, 0 in those without.
    images (N, in_channels, H, W) -> logits (N, num_classes). ValueError for a count below 1, a depth that is not
    6 n + 4 with n >= 1, or a dropout outside [0, 1).
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
    """shortcut + conv(dropout(relu(bn(conv(y))))), y = relu(bn(x)), 3x3 convolutions, the first one with the stride.

    The shortcut is x, or, where the shape changes, a 1x1 convolution of y.
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
