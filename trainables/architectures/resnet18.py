from trainables.architectures._base import small_image_resnet

__all__ = ["resnet18"]


def resnet18(num_classes, in_channels=3, *, width=64):
    """ResNet-18 for small images: torchvision's, with a 3x3 stride-1 stem and no max-pool, so 32x32 ends at 4x4.

    Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016; the stem is that of its
    section 4.2 (CIFAR-10), the four stages of 64 to 512 channels are those of its table 1. 11,173,962 parameters for
    ten classes.
    width: channels of the stem and the first stage; the others have 2, 4 and 8 times as many.
    images (N, in_channels, H, W) -> logits (N, num_classes). ValueError for a count below 1.
    """
    return small_image_resnet("resnet18", num_classes, in_channels, width)
