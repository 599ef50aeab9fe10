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
SAME = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "qkv_bias": True}  # transformers' defaults, without a argument
WHERE = "model: pretrained"


def vit(
    num_classes,
    in_channels=3,
    *,
    image_size=224,
    patch_size=32,
    hidden_size=768,
    num_layers=12,
    num_heads=12,
    mlp_size=None,
    dropout=0.0,
):
    """Vision Transformer, transformers' implementation, with random weights; by default ViT-B/32 at 224x224.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021,
    table 1; one linear layer takes the class token's output. 87,532,132 parameters for 100 classes.
    image_size, patch_size: pixels, the former a multiple of the latter. Images of another size are resized to
        image_size x image_size, bilinear, antialiased where they shrink: that is part of the network.
    hidden_size: a multiple of num_heads. mlp_size: units between the two linear layers of a block (FFN); 4 hidden_size
        by default. dropout: in [0, 1), behind the embeddings and behind attention and FFN in each block.
    images (N, in_channels, H, W) -> logits (N, num_classes). ValueError for a count below 1 and sizes that do not fit.
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
    from transformers import ViTConfig

    fields = {FIELDS[name]: size for name, size in sizes.items()} | {"num_labels": num_classes}
    config = ViTConfig(num_channels=in_channels, hidden_dropout_prob=dropout, **fields)
    return VisionTransformer(config)


class VisionTransformer(nn.Module):
    """images (N, C, H, W) -> logits (N, num_classes). Its weights have the names of ViTForImageClassification's."""

    def __init__(self, config):
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
        """The linear layers of the encoder's blocks by what they do, first block first: query, key, value, and the
        projection behind them, of attention; both of the FFN."""
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
    """A pretrained encoder, in a form that trials can share.

    sizes: the arguments of `vit` that make it. weights: float32, by their names in `VisionTransformer.vit`.
    mean, std: what it normalizes images by, per channel, of pixels in [0, 1]: what its preprocessor_config.json says,
    or 0.5, as of all of Google's ViTs, where it has none.
    """

    sizes: dict[str, int]
    weights: dict[str, np.ndarray]
    mean: list[float]
    std: list[float]


def read_checkpoint(pretrained: str) -> Checkpoint:
    """The encoder of a pretrained ViT; its classification head, if it has one, is left out.

    pretrained: a folder, as transformers' `save_pretrained` writes it, or a name on the hub: see `checkpoint_folder`.
    ValueError, one line: that function's, and for what is no ViT, damaged, incomplete, or not what `vit` makes.
    """
    folder = checkpoint_folder(WHERE, pretrained)
    try:
        fields = json.loads((folder / "config.json").read_text())
        file = folder / "preprocessor_config.json"
        preprocessing = json.loads(file.read_text()) if file.exists() else {}
        kind = fields.get("model_type")
        config, weights, lacking = _read_encoder(folder, fields) if kind == "vit" else (None, {}, [])
    except Exception as error:  # a damaged file raises whatever its bytes lead to
        raise ValueError(f"{WHERE} must be readable, got {folder} ({one_line(error)})") from error
    if config is None:
        raise ValueError(f"{WHERE} must be a ViT (model_type vit in config.json), got {folder} of model_type {kind}")
    if lacking:
        got = f"{folder} without {lacking[0]} or of another shape ({len(lacking)} in all)"
        raise ValueError(f"{WHERE} must have every weight of the encoder that its config.json describes, got {got}")
    for name, value in SAME.items():
        if (got := getattr(config, name)) != value:
            raise ValueError(f"{WHERE} must have {name} {value} (vit makes no other), got {folder} with {got}")
    mean, std = (preprocessing.get(name) or [0.5] * config.num_channels for name in ("image_mean", "image_std"))
    return Checkpoint({argument: getattr(config, field) for argument, field in FIELDS.items()}, weights, mean, std)


def _read_encoder(folder: Path, fields: dict[str, Any]) -> tuple[Any, dict[str, np.ndarray], list[str]]:
    """transformers' configuration, the weights, and the names of those that are not there in their shape."""
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
        dtype=torch.float32,  # not the checkpoint's own
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return config, weights, sorted(found["missing_keys"] | {name for name, *_ in found["mismatched_keys"]})
