from trainables.architectures._base import small_image_resnet

__all__ = ["resnet50"]


def resnet50(num_classes, in_channels=3, *, width=64):
    """ResNet-50 for small images: torchvision's, with a 3x3 stride-1 stem and no max-pool, so 32x32 ends at 4x4.

    Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016; the stem is that of its
    section 4.2 (CIFAR-10), the 16 bottleneck blocks in four stages of 256 to 2048 channels are those of its table 1.
    Departure, torchvision's: the stride is at the 3x3 convolution of a block, not at the first 1x1. 23,520,842
    parameters for ten classes.
    width: channels of the stem and within the first stage's blocks, which give 4 times as many; the other stages have
        2, 4 and 8 times those.
    images (N, in_channels, H, W) -> logits (N, num_classes). ValueError for a count below 1.
    """
    return small_image_resnet("resnet50", num_classes, in_channels, width)
