"""What the networks share: the check of their sizes, torchvision's residual networks, and their initialization."""

from torch import nn

__all__ = ["check_counts", "init_residual", "small_image_resnet"]


def check_counts(where, **counts):
    """ValueError unless every one of the named values is a whole number of at least 1."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{where}: {name} must be a whole number >= 1, got {value!r}")


def init_residual(model):
    """Draw every convolution from Kaiming's normal distribution, fan_out, gain of ReLU (He et al. 2015), in place.

    BatchNorm starts at scale 1 and shift 0 and linear layers as torch draws them, both without doing anything here.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def small_image_resnet(name, num_classes, in_channels, width):
    """torchvision's residual network `name` with a 3x3 stride-1 stem, no max-pool, and width / 64 of the channels."""
    check_counts(name, num_classes=num_classes, in_channels=in_channels, width=width)
    from torchvision import models

    model = getattr(models, name)(weights=None, num_classes=num_classes)
    if width != 64:
        model.conv1 = nn.Identity()  # as its 3 input channels are not to be scaled
        _rescale(model, width)
    model.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return init_residual(model)


def _rescale(module, width):
    """Put layers of width / 64 times the channels, which are multiples of 64, in the place of those in the module."""
    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d):
            before, after = (channels * width // 64 for channels in (layer.in_channels, layer.out_channels))
            same: dict = {field: getattr(layer, field) for field in ("kernel_size", "stride", "padding")}
            layer = nn.Conv2d(before, after, **same, bias=False)
        elif isinstance(layer, nn.BatchNorm2d):
            layer = nn.BatchNorm2d(layer.num_features * width // 64)
        elif isinstance(layer, nn.Linear):
            layer = nn.Linear(layer.in_features * width // 64, layer.out_features)
        else:
            _rescale(layer, width)
        setattr(module, name, layer)
