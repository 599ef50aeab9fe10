from torch import nn

from trainables.architectures._base import check_counts, init_residual

__all__ = ["resnet18"]


def resnet18(num_classes, in_channels=3):
    """ResNet-18 for small images: torchvision's, with a 3x3 stride-1 stem and no max-pool, so 32x32 ends at 4x4.

    Source: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016; the stem is that of its
    section 4.2 (CIFAR-10), the four stages of 64 to 512 channels are those of its table 1. 11,173,962 parameters for
    ten classes. images (N, in_channels, H, W) -> logits (N, num_classes). ValueError for a count below 1.
    """
    check_counts("resnet18", num_classes=num_classes, in_channels=in_channels)
    from torchvision.models import resnet18 as torchvision_resnet18

    model = torchvision_resnet18(weights=None, num_classes=num_classes)
    model.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return init_residual(model)
