"""Pretrained weights of segmentation-models-pytorch's encoders."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from trainables.errors import one_line
from trainables.paths import expanded

__all__ = ["load_encoder"]


def load_encoder(where: str, model: Any, encoder: str, weights: str, in_channels: int) -> None:
    """Load the weights of a network's encoder, in place.

    Args:
        where: The architecture, for error messages.
        model: A network of smp for images of three channels. It then takes `in_channels`.
        encoder: Name of the encoder.
        weights: One of smp's names for weights on the Hugging Face hub, downloaded once, or a .safetensors or .pth file
            with the encoder's state dict, smp's or torchvision's.
        in_channels: Channels of the images.

    Raises:
        ValueError: If the weights are unknown, missing or do not fit.
    """
    file = expanded(weights, "model: encoder_weights")
    _load(where, model.encoder, file if file.is_file() else _downloaded(where, encoder, weights))
    model.encoder.set_in_channels(in_channels, pretrained=True)


def _downloaded(where: str, encoder: str, name: str) -> Path:
    """Return the file with smp's weights of that name, from the hub's cache or downloaded to it."""
    import segmentation_models_pytorch as smp

    named = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings", {})
    if name not in named:
        choices = ", ".join(named) or "(none)"
        raise ValueError(f"{where}: encoder_weights of {encoder} must be a file or one of {choices}, got {name!r}")
    import huggingface_hub as hub

    file = {**named[name], "filename": "model.safetensors"}
    try:
        if hub.try_to_load_from_cache(**file) is None:
            hub.get_hf_file_metadata(hub.hf_hub_url(**file))  # fails at once; a download retries for half a minute
        return Path(hub.hf_hub_download(**file))
    except Exception as error:  # the hub's client raises some twenty types, its HTTP library more
        raise ValueError(
            f"{where}: encoder_weights {name} must be downloadable from {file['repo_id']}, got {one_line(error)}: "
            "connect to the network, name a file with encoder_weights=PATH, or leave it out to start from random "
            "weights"
        ) from error


def _load(where: str, encoder: nn.Module, file: Path) -> None:
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
        encoder.load_state_dict(state)
    except Exception as error:  # torch and safetensors raise many types for damaged files
        raise ValueError(
            f"{where}: encoder_weights must be a file with the state dict of this encoder, got {file} "
            f"({one_line(error)})"
        ) from error
