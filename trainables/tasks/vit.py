"""Image classification with Vision Transformers: uniform magnitude pruning over the encoder's linear layers."""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.architectures.vit import VisionTransformer, read_checkpoint
from trainables.config import TrialConfig, construct
from trainables.tasks.cnn import CNN, LoadedImages

__all__ = ["ViT"]

PRUNED = {
    "all": ("query", "key", "value", "projection", "ffn"),
    "qkv": ("query", "key", "value"),
    "qk": ("query", "key"),
    "q": ("query",),
}


@dataclass(frozen=True)
class Settings:
    """prune: what pruning may remove of the encoder's blocks: "all" is query, key, value, projection and both FFN
    layers; "q", "qk" and "qkv" are those of the WCR paper's section D.2. (Its QKV rows there hold the same numbers as
    its table 1, which is said to be of all.) ValueError for another.
    """

    prune: str = "all"

    def __post_init__(self) -> None:
        if self.prune not in PRUNED:
            raise ValueError(f"task_args: prune must be one of {', '.join(PRUNED)}, got {self.prune!r}")


@dataclass(frozen=True)
class LoadedViT(LoadedImages):
    """Beside the images, a pretrained encoder that all trials of a node share: the arguments that make it, and its
    weights by name. Both are empty where the network starts from random weights."""

    sizes: dict[str, int] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)


class ViT(CNN):
    """As `CNN`, with a Vision Transformer, which resizes the images itself, and, if asked, a pretrained encoder in it.

    The model's argument `pretrained` is a folder with a checkpoint, or a name on the Hugging Face hub; without it, or with
    "", all weights are random. The checkpoint decides the network's sizes and how images are normalized. Its weights
    are read once, as float32, and given to every trial; the classifier starts at random, by the trial's seed.
    """

    @classmethod
    def load(cls, config: TrialConfig, root: str | None = None) -> LoadedViT:
        pretrained = config.model.get("pretrained", "")
        if not isinstance(pretrained, str):
            raise ValueError(f"model: pretrained must be a folder or a name on the Hugging Face hub, got {pretrained}")
        checkpoint = read_checkpoint(pretrained) if pretrained else None  # its faults are said before images are read
        loaded = super().load(config, root)
        if checkpoint is None:
            return LoadedViT(loaded.images, loaded.mean, loaded.std)
        for name in checkpoint.sizes.keys() & config.model.keys():
            raise ValueError(
                f"model: {name} must be left out with pretrained, which decides it (--model pretrained= starts from "
                f"random weights), got {config.model[name]}"
            )
        channels, taken = loaded.images.train_images.shape[1], len(checkpoint.mean)
        if taken != channels:
            raise ValueError(
                f"model: pretrained must take images of {channels} channels, as {config.dataset} has, got {pretrained} "
                f"for {taken}"
            )
        return LoadedViT(loaded.images, checkpoint.mean, checkpoint.std, checkpoint.sizes, checkpoint.weights)

    def __init__(self, config: TrialConfig, data: LoadedViT, device: str | torch.device = "cpu"):
        if config.criterion == "synflow":
            raise ValueError(
                "criterion: must not be synflow with vit (it sums over paths of absolute weights; behind LayerNorm and "
                "softmax they have no sum, and its scores get signs), got synflow"
            )
        super().__init__(config, data, device)
        self.settings = construct("task_args", Settings, arguments=config.task_args)
        self.pretrained = data.weights
        self.model_arguments = {
            name: value for name, value in config.model.items() if name != "pretrained"
        } | data.sizes

    def build_model(self) -> nn.Module:
        model = super().build_model()
        if not isinstance(model, VisionTransformer):
            raise ValueError(f"vit: architecture must be a Vision Transformer, such as vit, got {self.architecture}")
        if self.pretrained:
            model.vit.load_state_dict(dict(zip(self.pretrained, self._tensors(*self.pretrained.values()), strict=True)))
        return model

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        # Who wants gradients in evaluation mode (a criterion, sharpness) may want their gradients too, which the fused
        # kernels of attention do not have.
        second = torch.is_grad_enabled() and not model.training
        with sdpa_kernel(SDPBackend.MATH) if second else contextlib.nullcontext():
            return super().forward(model, batch)

    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        assert isinstance(model, VisionTransformer)
        found = model.projections()
        chosen = {layer for role in PRUNED[self.settings.prune] for layer in found[role]}
        return {f"{name}.weight": m.weight for name, m in model.named_modules() if m in chosen}

    def regularized(self, model: nn.Module) -> dict[str, Tensor]:
        """Weights of linear layers and of the patches' convolution. Position embeddings and the class token are added
        to activations, as biases are, and left out."""
        layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        return {f"{name}.weight": m.weight for name, m in layers.items() if m.weight.requires_grad}
