from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from trainables.architectures._base import check_counts
from trainables.config import expanded
from trainables.errors import one_line

__all__ = ["unet"]


def unet(
    num_classes: int = 1,
    in_channels: int = 3,
    *,
    encoder: str = "resnet50",
    encoder_weights: str | None = None,
    decoder_width: int = 16,
) -> nn.Module:
    """UNet with a classification network as its encoder.

    It is that of segmentation-models-pytorch (smp). The skip connections come from the five stages of the encoder. Each
    of the five decoder blocks doubles the size (nearest neighbour), appends the skip connection, and applies two 3x3
    convolutions with BatchNorm and ReLU. A last 3x3 convolution computes the logits.

    It maps images (N, in_channels, H, W) to logits (N, num_classes, H, W), with H and W of at least 32.

    Args:
        num_classes: Number of logits per pixel.
        in_channels: Channels of the images.
        encoder: resnet50 (32,521,105 parameters in all), resnet18, mobilenet_v2, or another of smp's names.
        encoder_weights: None for random weights; imagenet or another of smp's names for weights of the Hugging Face
            hub, downloaded once; or a .safetensors or .pth file with the encoder's state dict, smp's or torchvision's.
        decoder_width: Channels of the last decoder block. Those before it have 16, 8, 4 and 2 times as many.

    Raises:
        ValueError: If a count is below 1, the encoder is unknown, or its weights are missing or do not fit.

    Reference: Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI
    2015.
    """
    check_counts("unet", num_classes=num_classes, in_channels=in_channels, decoder_width=decoder_width)
    import segmentation_models_pytorch as smp  # lazy: takes 13 s to import

    if encoder not in smp.encoders.encoders:
        raise ValueError(f"unet: encoder must be one of {', '.join(smp.encoders.encoders)}, got {encoder!r}")
    model = smp.Unet(
        encoder,
        encoder_weights=None,
        in_channels=3 if encoder_weights else in_channels,
        classes=num_classes,
        decoder_channels=[factor * decoder_width for factor in (16, 8, 4, 2, 1)],
    )
    if encoder_weights:
        file = expanded(encoder_weights, "model: encoder_weights")
        named = smp.encoders.encoders[encoder]["pretrained_settings"]
        _load(model.encoder, file if file.is_file() else _downloaded(encoder, encoder_weights, named))
        model.encoder.set_in_channels(in_channels, pretrained=True)
    return model


def _downloaded(encoder, name, named):
    """Return the file with smp's weights of that name, from the hub's cache or downloaded to it."""
    if name not in named:
        choices = ", ".join(named) or "(none)"
        raise ValueError(f"unet: encoder_weights of {encoder} must be a file or one of {choices}, got {name!r}")
    import huggingface_hub as hub

    file = {**named[name], "filename": "model.safetensors"}
    try:
        if hub.try_to_load_from_cache(**file) is None:
            hub.get_hf_file_metadata(hub.hf_hub_url(**file))  # fails at once; a download retries for half a minute
        return Path(hub.hf_hub_download(**file))
    except Exception as error:  # the hub's client raises some twenty types, its HTTP library more
        raise ValueError(
            f"unet: encoder_weights {name} must be downloadable from {file['repo_id']}, got {one_line(error)}: connect "
            "to the network, name a file with encoder_weights=PATH, or leave it out to start from random weights"
        ) from error


def _load(encoder, file):
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        encoder.load_state_dict(state)
    except Exception as error:  # torch and safetensors raise many types for damaged files
        raise ValueError(
            f"unet: encoder_weights must be a file with the state dict of this encoder, got {file} ({one_line(error)})"
        ) from error
