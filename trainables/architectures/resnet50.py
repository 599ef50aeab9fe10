from torch import nn

from trainables.architectures._base import small_image_resnet

__all__ = ["resnet50"]


def resnet50(num_classes: int, in_channels: int = 3, *, width: int = 64) -> nn.Module:
    """ResNet-50 for small images: a 3x3 stride-1 stem and no max-pooling.

    torchvision's network with the stem of the paper's section 4.2 (CIFAR-10) before the 16 bottleneck blocks of its
    table 1, in four stages of 256 to 2048 channels. A 32x32 image is 4x4 before the average pooling. 23,520,842
    parameters for ten classes. Departure from the paper, torchvision's: the stride of a block is at its 3x3
    convolution, not at its first 1x1.

    It maps images (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
        width: Channels of the stem and inside the blocks of the first stage, which put out 4 times as many. The other
            stages have 2, 4 and 8 times as many.

    Raises:
        ValueError: If a count is below 1.

    Reference: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return small_image_resnet("resnet50", num_classes, in_channels, width)
