from typing import Any

from torch import nn

from trainables.architectures._base import check_counts, check_pretrained
from trainables.architectures._encoder_weights import load_encoder

__all__ = ["smp"]


def smp(
    name: str, num_classes: int = 1, in_channels: int = 3, *, pretrained: bool = False, **arguments: Any
) -> nn.Module:
    """Segmentation network of segmentation-models-pytorch: `smp/unetplusplus-resnet34`, `smp/fpn-mobilenet_v2`.

    It maps images (N, in_channels, H, W) to logits (N, num_classes, H, W), with H and W multiples of 32. `unet` without
    the prefix has a configurable width.

    Args:
        name: ARCHITECTURE-ENCODER: an architecture such as unet, unetplusplus, fpn or deeplabv3plus, and one of smp's
            encoders.
        num_classes: Number of logits per pixel.
        in_channels: Channels of the images.
        pretrained: Whether to start from the encoder's ImageNet weights on the Hugging Face hub, downloaded once.
        **arguments: Further arguments of the architecture, such as decoder_segmentation_channels=64.

    Raises:
        ValueError: If the architecture or the encoder is unknown, or its weights cannot be downloaded.

    Reference: Iakubovskii, "Segmentation Models PyTorch", 2019.
    """
    where = f"smp/{name}"
    check_counts(where, num_classes=num_classes, in_channels=in_channels)
    check_pretrained(where, pretrained)
    import segmentation_models_pytorch as library  # lazy: takes 13 s to import

    architecture, _, encoder = name.partition("-")
    known, encoders = library.MODEL_ARCHITECTURES_MAPPING, library.encoders.encoders
    if architecture not in known:
        raise ValueError(f"{where}: must begin with one of {', '.join(known)} and a hyphen, got {architecture!r}")
    if encoder not in encoders:
        raise ValueError(f"{where}: must end in an encoder (one of {', '.join(encoders)}), got {encoder!r}")
    model = library.create_model(
        architecture,
        encoder_name=encoder,
        encoder_weights=None,
        in_channels=3 if pretrained else in_channels,
        classes=num_classes,
        **arguments,
    )
    if pretrained:
        load_encoder(where, model, encoder, "imagenet", in_channels)
    return model
