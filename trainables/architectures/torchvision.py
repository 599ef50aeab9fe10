import difflib
from typing import Any

import torch
from torch import nn

from trainables.architectures._base import check_counts, check_pretrained
from trainables.errors import one_line

__all__ = ["torchvision"]

NUM_PRETRAINED = 1000  # classes of torchvision's weights


def torchvision(
    name: str, num_classes: int, in_channels: int = 3, *, pretrained: bool = False, **arguments: Any
) -> nn.Module:
    """Image classifier of torchvision: `torchvision/resnet50`, `torchvision/mobilenet_v3_small`.

    It maps images (N, in_channels, H, W) to logits (N, num_classes). Most of these networks are made for images of 224
    x 224 pixels; `resnet18` and `resnet50` without the prefix are made for small ones.

    Args:
        name: A name of `torchvision.models.list_models(module=torchvision.models)`.
        num_classes: Number of classes.
        in_channels: Channels of the images. If they are not 3, the first convolution is replaced; pretrained, it gets
            the mean over the three channels.
        pretrained: Whether to start from torchvision's default weights, downloaded once. The classifier is random if
            the number of classes is not 1000.
        **arguments: Further arguments of torchvision's function, such as aux_logits=false or image_size=32.

    Raises:
        ValueError: If the network is unknown, or its weights cannot be downloaded.

    Reference: TorchVision maintainers, "TorchVision: PyTorch's Computer Vision library", 2016.
    """
    where = f"torchvision/{name}"
    check_counts(where, num_classes=num_classes, in_channels=in_channels)
    check_pretrained(where, pretrained)
    from torchvision import models  # lazy: importing torchvision takes a second

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5) or ["resnet18", "mobilenet_v3_small"]
        raise ValueError(f"{where}: must be a network of torchvision, such as {', '.join(close)}, got {name!r}")
    if not pretrained:
        return _take_channels(models.get_model(name, weights=None, num_classes=num_classes, **arguments), in_channels)
    model = models.get_model(name, weights=None, **arguments)
    try:
        weights: Any = models.get_model_weights(name).DEFAULT
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # whatever the download raises
        raise ValueError(
            f"{where}: pretrained weights must be downloadable, got {one_line(error)}: connect to the network, or "
            "leave pretrained out to start from random weights"
        ) from error
    model.load_state_dict(state)
    return _take_channels(_classify(model, num_classes), in_channels)


def _classify(model: nn.Module, num_classes: int) -> nn.Module:
    """Replace the layers that map to the classes of the pretrained network."""
    if num_classes == NUM_PRETRAINED:
        return model
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer.out_features == NUM_PRETRAINED:
            _replace(model, name, nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None))
        elif isinstance(layer, nn.Conv2d) and layer.out_channels == NUM_PRETRAINED:  # squeezenet's
            _replace(model, name, nn.Conv2d(layer.in_channels, num_classes, kernel_size=1))
    return model


def _take_channels(model: nn.Module, in_channels: int) -> nn.Module:
    """Replace the first convolution if it does not take images of that many channels."""
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if first.in_channels == in_channels:
        return model
    same: Any = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    conv = nn.Conv2d(in_channels, first.out_channels, **same, bias=first.bias is not None)
    with torch.no_grad():  # the sum over the channels stays the same for grey images
        conv.weight.copy_(first.weight.sum(1, keepdim=True).expand_as(conv.weight) / in_channels)
        if conv.bias is not None and first.bias is not None:
            conv.bias.copy_(first.bias)
    _replace(model, name, conv)
    return model


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    path, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(path), attribute, layer)
