"""What the networks share: checks, initialization, ResNets for small images."""

from typing import Any

from torch import nn

__all__ = ["check_counts", "check_pretrained", "init_residual", "small_image_resnet"]


def check_counts(where: str, **counts: Any) -> None:
    """Check that arguments are whole numbers of at least 1.

    Args:
        where: The function whose arguments they are, for the error message.
        **counts: The arguments.

    Raises:
        ValueError: For the first that is not.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{where}: {name} must be a whole number >= 1, got {value!r}")


def check_pretrained(where: str, pretrained: Any) -> None:
    """Check that `pretrained` is true or false.

    Args:
        where: The network, for the error message.
        pretrained: The argument.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(pretrained, bool):
        raise ValueError(f"{where}: pretrained must be true or false, got {pretrained!r}")


def init_residual(model: nn.Module) -> nn.Module:
    """Initialize all convolutions from Kaiming's normal distribution, in place.

    The variant is fan_out with the gain of ReLU. BatchNorm and linear layers keep torch's initialization.

    Returns:
        The model.

    Reference: He, Zhang, Ren & Sun, "Delving Deep into Rectifiers", ICCV 2015.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def small_image_resnet(name: str, num_classes: int, in_channels: int, width: int) -> nn.Module:
    """Build torchvision's ResNet `name` with a 3x3 stride-1 stem and no max-pooling.

    Args:
        name: Name of the function in torchvision.models.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        width: Channels of the stem. All other channels are scaled by width / 64.

    Raises:
        ValueError: If a count is below 1.
    """
    check_counts(name, num_classes=num_classes, in_channels=in_channels, width=width)
    from torchvision import models  # lazy: importing torchvision takes a second

    model = getattr(models, name)(weights=None, num_classes=num_classes)
    if width != 64:
        model.conv1 = nn.Identity()  # its 3 input channels must not be scaled; it is replaced below
        _rescale(model, width)
    model.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=1, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return init_residual(model)


def _rescale(module, width):
    """Replace the layers of a module by layers with width / 64 times the channels, which are multiples of 64."""
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
