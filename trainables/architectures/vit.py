import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.architectures._base import check_counts
from trainables.architectures._hub import checkpoint_folder
from trainables.errors import one_line

__all__ = ["vit"]

FIELDS = {  # argument -> field of transformers' ViTConfig
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_size": "intermediate_size",
}
FIXED_FIELDS = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
}  # transformers' defaults, which `vit` has no arguments for
WHERE = "model: pretrained"


def vit(
    num_classes: int,
    in_channels: int = 3,
    *,
    image_size: int = 224,
    patch_size: int = 32,
    hidden_size: int = 768,
    num_layers: int = 12,
    num_heads: int = 12,
    mlp_size: int | None = None,
    dropout: float = 0.0,
) -> "VisionTransformer":
    """Vision Transformer with random weights; ViT-B/32 at 224x224 by default.

    The network is that of the transformers library. One linear layer maps the output of the class token to the logits.
    ViT-B/32 has 87,532,132 parameters for 100 classes (the paper's table 1). The network resizes images of another size
    to image_size x image_size, bilinear, with antialiasing where they shrink.

    It maps images (N, in_channels, H, W) to logits (N, num_classes).

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the images.
        image_size: Height and width of the images in pixels, a multiple of patch_size.
        patch_size: Height and width of a patch in pixels.
        hidden_size: Width of the network, a multiple of num_heads.
        num_layers: Number of blocks.
        num_heads: Number of attention heads.
        mlp_size: Units between the two linear layers of a block's FFN; 4 hidden_size by default.
        dropout: Probability of zeroing an activation, in [0, 1), after the embeddings and after the attention and the
            FFN of each block.

    Raises:
        ValueError: If a count is below 1, the sizes do not fit together, or dropout is out of range.

    Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR
    2021.
    """
    sizes = {
        "image_size": image_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "mlp_size": 4 * hidden_size if mlp_size is None else mlp_size,
    }
    check_counts("vit", num_classes=num_classes, in_channels=in_channels, **sizes)
    for whole, part in (("image_size", "patch_size"), ("hidden_size", "num_heads")):
        if sizes[whole] % sizes[part]:
            raise ValueError(f"vit: {whole} must be a multiple of {part} {sizes[part]}, got {sizes[whole]}")
    if not 0 <= dropout < 1:
        raise ValueError(f"vit: dropout must be in [0, 1), got {dropout}")
    from transformers import ViTConfig  # lazy: takes seconds to import

    fields: dict[str, Any] = {FIELDS[name]: size for name, size in sizes.items()} | {"num_labels": num_classes}
    config = ViTConfig(num_channels=in_channels, hidden_dropout_prob=dropout, **fields)
    return VisionTransformer(config)


class VisionTransformer(nn.Module):
    """Encoder and classifier: images (N, C, H, W) to logits (N, num_classes).

    Weights have the names that transformers' ViTForImageClassification gives them.

    Args:
        config: transformers' ViTConfig.
    """

    def __init__(self, config: Any):
        super().__init__()
        from transformers import ViTForImageClassification

        whole = ViTForImageClassification(config)
        self.image_size = config.image_size
        self.vit, self.classifier = whole.vit, whole.classifier

    def forward(self, images: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        if images.shape[2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        return self.classifier(self.vit(images).last_hidden_state[:, 0])

    def projections(self) -> dict[str, list[nn.Linear]]:
        """Return the linear layers of the blocks by role, first block first.

        Returns:
            The layers of "query", "key", "value" and "projection" (the output of attention), and both of each "ffn".
        """
        from transformers.models.vit.modeling_vit import ViTAttention, ViTMLP

        found: dict[str, list[nn.Linear]] = {"query": [], "key": [], "value": [], "projection": [], "ffn": []}
        for module in self.vit.modules():
            if isinstance(module, ViTAttention):
                found["query"].append(module.q_proj)
                found["key"].append(module.k_proj)
                found["value"].append(module.v_proj)
                found["projection"].append(module.o_proj)
            elif isinstance(module, ViTMLP):
                found["ffn"] += [module.fc1, module.fc2]
        return found


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A pretrained encoder as arrays, which trials can share.

    Attributes:
        sizes: The arguments of `vit` that build it.
        weights: float32, by their names in `VisionTransformer.vit`.
        mean: Mean that images are normalized with, per channel, of pixels in [0, 1]: that of its
            preprocessor_config.json, or 0.5, as for all of Google's ViTs, without this file.
        std: Standard deviation, as `mean`.
    """

    sizes: dict[str, int]
    weights: dict[str, np.ndarray]
    mean: list[float]
    std: list[float]


def read_checkpoint(pretrained: str) -> Checkpoint:
    """Read the encoder of a pretrained ViT, without its classification head.

    Args:
        pretrained: A folder that transformers' `save_pretrained` wrote, or a name on the hub (see
            `checkpoint_folder`).

    Raises:
        ValueError: If there is no such checkpoint, or it is no ViT, damaged, incomplete, or has fields that `vit` does
            not support.
    """
    folder = checkpoint_folder(WHERE, pretrained)
    try:
        fields = json.loads((folder / "config.json").read_text())
        file = folder / "preprocessor_config.json"
        preprocessing = json.loads(file.read_text()) if file.exists() else {}
        kind = fields.get("model_type")
        config, weights, lacking = _read_encoder(folder, fields) if kind == "vit" else (None, {}, [])
    except Exception as error:  # transformers raises many types for damaged files
        raise ValueError(f"{WHERE} must be readable, got {folder} ({one_line(error)})") from error
    if config is None:
        raise ValueError(f"{WHERE} must be a ViT (model_type vit in config.json), got {folder} of model_type {kind}")
    if lacking:
        got = f"{folder} without {lacking[0]} or of another shape ({len(lacking)} in all)"
        raise ValueError(f"{WHERE} must have every weight of the encoder that its config.json describes, got {got}")
    for name, value in FIXED_FIELDS.items():
        if (got := getattr(config, name)) != value:
            raise ValueError(f"{WHERE} must have {name} {value} (vit supports no other), got {folder} with {got}")
    mean, std = (preprocessing.get(name) or [0.5] * config.num_channels for name in ("image_mean", "image_std"))
    return Checkpoint({argument: getattr(config, field) for argument, field in FIELDS.items()}, weights, mean, std)


def _read_encoder(folder: Path, fields: dict[str, Any]) -> tuple[Any, dict[str, np.ndarray], list[str]]:
    """Read transformers' configuration, the weights, and the names of weights that are missing or of another shape."""
    from transformers import ViTConfig, ViTModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    from_pretrained: Any = ViTModel.from_pretrained
    config = ViTConfig.from_dict(fields)
    model, found = from_pretrained(
        folder,
        config=config,
        add_pooling_layer=False,
        dtype=torch.float32,  # whatever the checkpoint's own type
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return config, weights, sorted(found["missing_keys"] | {name for name, *_ in found["mismatched_keys"]})
