import difflib
from typing import Any

from torch import nn

from trainables.architectures._base import check_counts, check_pretrained
from trainables.errors import one_line

__all__ = ["timm"]


def timm(name: str, num_classes: int, in_channels: int = 3, *, pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Image classifier of the timm library: `timm/resnet50`, `timm/convnext_nano`.

    It maps images (N, in_channels, H, W) to logits (N, num_classes). Many networks need images larger than digits, and
    Vision Transformers take one size, which `--model img_size=32` changes. The task `cnn` prunes convolutions; `vit`
    prunes the linear layers.

    Args:
        name: A name of `timm.list_models()`, also with a tag such as resnet50.a1_in1k.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        pretrained: Whether to start from the weights on the Hugging Face hub, downloaded once. The classifier is
            random if the number of classes differs.
        **arguments: Further arguments of `timm.create_model`, such as img_size=32 or drop_rate=0.1.

    Raises:
        ValueError: If timm is not installed, the network is unknown, or its weights cannot be downloaded.

    Reference: Wightman, "PyTorch Image Models", 2019, doi 10.5281/zenodo.4414861.
    """
    where = f"timm/{name}"
    check_counts(where, num_classes=num_classes, in_channels=in_channels)
    check_pretrained(where, pretrained)
    try:
        import timm as library  # lazy: takes seconds to import
    except ImportError as error:
        raise ValueError(
            f"{where}: the library timm must be installed, got {one_line(error)}: pip install 'sparsity-sweeps[timm]'"
        ) from error
    if not library.is_model(name):
        close = difflib.get_close_matches(name, library.list_models(), n=5) or ["resnet18", "convnext_nano"]
        raise ValueError(f"{where}: must be a network of timm, such as {', '.join(close)}, got {name!r}")
    if pretrained:
        _download(where, name, library.get_pretrained_cfg(name))
    return library.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **arguments)


def _download(where: str, name: str, config: Any) -> None:
    """Check that the pretrained weights are there, without the half minute for which timm retries."""
    if config is None or not config.hf_hub_id:
        raise ValueError(f"{where}: pretrained must be false (the hub has no weights of it), got true")
    import huggingface_hub as hub

    file = {"repo_id": config.hf_hub_id, "filename": "model.safetensors"}
    try:
        if hub.try_to_load_from_cache(**file) is None:
            hub.get_hf_file_metadata(hub.hf_hub_url(**file))
            hub.hf_hub_download(**file)
    except Exception as error:  # the hub's client raises some twenty types, its HTTP library more
        raise ValueError(
            f"{where}: pretrained weights must be downloadable from {config.hf_hub_id}, got {one_line(error)}: connect "
            "to the network, or leave pretrained out to start from random weights"
        ) from error
