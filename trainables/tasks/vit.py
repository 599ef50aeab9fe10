"""Image classification with Vision Transformers, pruned in their linear layers."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from trainables.architectures.vit import VisionTransformer, read_checkpoint
from trainables.config import TrialConfig
from trainables.task import without_pretrained
from trainables.tasks.cnn import CNN, LoadedImages
from trainables.weights import trained_weights

__all__ = ["ViT"]

PRUNED = {
    "all": ("query", "key", "value", "projection", "ffn"),
    "qkv": ("query", "key", "value"),
    "qk": ("query", "key"),
    "q": ("query",),
}


@dataclass(frozen=True)
class ViTSettings:
    """Settings of the task `vit`, set by `--task-arg`.

    Attributes:
        prune: The layers of the encoder's blocks that pruning may remove weights of. "all": query, key, value,
            projection and both FFN layers. "q", "qk" and "qkv": the settings of section D.2 of the WCR paper, whose QKV
            rows have the numbers of its table 1, which is said to be about all layers.

    Raises:
        ValueError: If prune is none of these.

    Reference: Yun, Jo & Lee 2025, arXiv 2511.14282.
    """

    prune: str = "all"

    def __post_init__(self) -> None:
        if self.prune not in PRUNED:
            raise ValueError(f"task_args: prune must be one of {', '.join(PRUNED)}, got {self.prune!r}")


@dataclass(frozen=True)
class LoadedViT(LoadedImages):
    """A dataset of images and a pretrained encoder, which the trials of a node share.

    Attributes:
        sizes: The arguments of `vit` that build the encoder; empty without a pretrained one.
        weights: Its weights, float32, by name; empty without a pretrained one.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)


class ViT(CNN):
    """Image classification with a Vision Transformer, optionally pretrained.

    Differs from `CNN` in the network, which resizes the images itself, and in the prunable weights: those of the
    encoder's linear layers, see `ViTSettings`. Of other networks, such as timm/vit_tiny_patch16_224, it prunes all
    linear layers but the classifier, which is told by its number of outputs, and the query, key and value projections
    of torch's attention.

    The argument `pretrained` of the model is a folder with a checkpoint or a name on the Hugging Face hub. Without it,
    or with "", all weights are random. The checkpoint decides the sizes of the network and the normalization of images.
    It is read once, as float32, and shared by all trials; the classifier has random weights, by the seed of the trial.
    """

    settings_class = ViTSettings

    @classmethod
    def load(cls, config: TrialConfig, root: str | None = None) -> LoadedViT:
        if config.architecture != "vit":  # another network loads its own weights
            loaded = super().load(config, root)
            return LoadedViT(loaded.images, loaded.mean, loaded.std)
        pretrained = config.model.get("pretrained", "")
        if not isinstance(pretrained, str):
            raise ValueError(f"model: pretrained must be a folder or a name on the Hugging Face hub, got {pretrained}")
        checkpoint = read_checkpoint(pretrained) if pretrained else None  # before reading images: errors show sooner
        loaded = super().load(config, root)
        if checkpoint is None:
            return LoadedViT(loaded.images, loaded.mean, loaded.std)
        for name in checkpoint.sizes.keys() & config.model.keys():
            raise ValueError(
                f"model: {name} must be left out with pretrained (the checkpoint decides it; --model pretrained= means "
                f"random weights), got {config.model[name]}"
            )
        channels, expected = loaded.images.train_images.shape[1], len(checkpoint.mean)
        if expected != channels:
            raise ValueError(
                f"model: pretrained must be for images of {channels} channels (those of {config.dataset}), got "
                f"{pretrained} for {expected}"
            )
        return LoadedViT(loaded.images, checkpoint.mean, checkpoint.std, checkpoint.sizes, checkpoint.weights)

    def __init__(self, config: TrialConfig, data: LoadedViT, device: str | torch.device = "cpu"):
        if any(method.criterion == "synflow" for method in config.pruning):
            raise ValueError(
                "criterion: must not be synflow with vit (it sums over paths of absolute weights, which LayerNorm and "
                "softmax break: scores become negative), got synflow"
            )
        super().__init__(config, data, device)
        self.pretrained = data.weights
        if config.architecture == "vit":
            self.model_arguments = without_pretrained(config.model) | data.sizes

    def build_model(self) -> nn.Module:
        model = super().build_model()
        other = not isinstance(model, VisionTransformer)
        if other and (self.settings.prune != "all" or not self.prunable(model)):
            raise ValueError(
                f"vit: architecture must be a Vision Transformer, such as vit, or with prune=all a network with linear "
                f"layers before its classifier, got {self.architecture}"
            )
        if isinstance(model, VisionTransformer) and self.pretrained:
            model.vit.load_state_dict(dict(zip(self.pretrained, self._tensors(*self.pretrained.values()), strict=True)))
        return model

    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        if not isinstance(model, VisionTransformer):
            linear = trained_weights(model, nn.Linear) | attention_weights(model)
            return {name: w for name, w in linear.items() if len(w) != self.data.num_classes}
        found = model.projections()
        chosen = {layer for role in PRUNED[self.settings.prune] for layer in found[role]}
        return {f"{name}.weight": m.weight for name, m in model.named_modules() if m in chosen}


def attention_weights(model: nn.Module) -> dict[str, Tensor]:
    """The query, key and value projections of torch's attention that are trained, by name: they are no layers."""
    projections = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return {
        f"{path}.{name}": p
        for path, attention in model.named_modules()
        if isinstance(attention, nn.MultiheadAttention)
        for name, p in attention.named_parameters(recurse=False)
        if name in projections and p.requires_grad
    }
