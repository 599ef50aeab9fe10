from pathlib import Path

import torch
from safetensors.torch import load_file

from trainables.architectures._base import check_counts
from trainables.config import expanded
from trainables.errors import one_line

__all__ = ["unet"]


def unet(num_classes=1, in_channels=3, *, encoder="resnet50", encoder_weights=None, decoder_width=16):
    """UNet whose encoder is a classification network: that of segmentation-models-pytorch (smp).

    Source: Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015.
    In smp the skip connections are those of the encoder's five stages; each of five decoder blocks doubles the size
    (nearest), appends the skip, and convolves twice, 3x3, with BatchNorm and ReLU; a 3x3 convolution makes the logits.
    encoder: resnet50 (32,521,105 parameters in all), resnet18, mobilenet_v2, or another of smp's names.
    encoder_weights: None is random weights; imagenet, or another of smp's names, those of the Hugging Face hub,
        downloaded once; a path, a file .safetensors or .pth with the encoder's state dict, smp's or torchvision's.
    decoder_width: channels of the last decoder block; those before it have 16, 8, 4 and 2 times as many.
    images (N, in_channels, H, W) -> logits (N, num_classes, H, W), H and W of at least 32.
    ValueError for a count below 1, an unknown encoder, and weights that cannot be had or do not fit.
    """
    check_counts("unet", num_classes=num_classes, in_channels=in_channels, decoder_width=decoder_width)
    import segmentation_models_pytorch as smp

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
    """The file in the hub's cache with smp's weights of that name, downloaded if it is not there."""
    if name not in named:
        choices = ", ".join(named) or "(none)"
        raise ValueError(f"unet: encoder_weights of {encoder} must be a file or one of {choices}, got {name!r}")
    import huggingface_hub as hub

    file = {**named[name], "filename": "model.safetensors"}
    try:
        if hub.try_to_load_from_cache(**file) is None:
            hub.get_hf_file_metadata(hub.hf_hub_url(**file))  # fails at once; the download tries for half a minute
        return Path(hub.hf_hub_download(**file))
    except Exception as error:  # the hub's client has some twenty types, and its connection's own
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
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(
            f"unet: encoder_weights must be a file with the state dict of this encoder, got {file} ({one_line(error)})"
        ) from error
