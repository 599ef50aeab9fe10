"""Low-rank adapters: adding, merging, and penalizing the merged weights."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainables.architectures.causal_lm import quiet
from trainables.tasks._lora_settings import LoRASettings

__all__ = ["MergedWeights", "add_adapters", "find_projections", "logits_only_at", "merge_adapters"]


def add_adapters(network: Any, settings: LoRASettings, device: torch.device) -> nn.Module:
    """Freeze a network and add LoRA factors, in float32, to its projections.

    The state dict of the result holds the factors only, and loads without the frozen weights: these come from the
    checkpoint of the base.

    Args:
        network: A network of the transformers library. It is changed in place.
        settings: The settings of the task.
        device: Device of the result.

    Raises:
        ValueError: If the network has no linear layer of one of the names.
    """
    adapted = list(find_projections(network, settings.names))
    missing = [name for name in settings.names if not any(n.split(".")[-1] == name for n in adapted)]
    if missing:
        kinds = {name.split(".")[-1] for name, m in network.named_modules() if getattr(m, "weight", None) is not None}
        raise ValueError(
            f"task_args: projections must be names of linear layers of the model, got {', '.join(missing)}, while "
            f"{type(network).__name__} has {', '.join(sorted(kinds))}"
        )
    for parameter in network.parameters():  # no buffers: rotary angles need more digits than bfloat16 has
        parameter.data = parameter.data.to(getattr(torch, settings.base_dtype))
    quiet()
    from peft import LoraConfig, get_peft_model  # lazy: takes 15 s to import

    lora = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=adapted,
        bias="none",
    )
    with warnings.catch_warnings():  # peft uses a name that transformers deprecates
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(network.to(device), lora)  # the factors are float32 whatever the base is
    if settings.gradient_checkpointing:
        network.activation_checkpointing_enable()
    model.register_state_dict_post_hook(_drop_frozen)
    model.register_load_state_dict_post_hook(_ignore_missing_frozen)
    return model


def _drop_frozen(model: nn.Module, state: dict, prefix: str, _: dict) -> None:
    for name, parameter in model.named_parameters(prefix.rstrip("."), remove_duplicate=False):
        if not parameter.requires_grad:
            del state[name]


def _ignore_missing_frozen(model: nn.Module, incompatible: Any) -> None:
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name not in frozen]


def find_projections(model: Any, names: list[str]) -> dict[str, Any]:
    """Find the layers that are adapted or, in a plain network, can be.

    Args:
        model: A network with or without adapters.
        names: Last parts of the layers' names.

    Returns:
        The layers by their full names in the plain network.
    """
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        name: module
        for name, module in network.named_modules()
        if name.split(".")[-1] in names and (isinstance(module, nn.Linear) or hasattr(module, "base_layer"))
    }


def merge_adapters(model: Any, settings: LoRASettings) -> nn.Module:
    """Merge the adapters into the plain network, in float32: W0 + (alpha / r) B A.

    Args:
        model: A network with adapters. It is changed in place.
        settings: The settings of the task.
    """
    network = model.float().merge_and_unload()
    if settings.gradient_checkpointing:
        network.activation_checkpointing_disable()
    for layer in find_projections(network, settings.names).values():
        layer.weight.requires_grad_(True)  # a criterion may need their gradient
    return network


class MergedWeights:
    """The merged weights W0 + (alpha / r) B A, as tensors for a penalty.

    They are differentiable functions of A and B, so that the gradient of the penalty reaches these. `update` recomputes
    them in place, because a regularizer holds the tensors for the whole training.

    Args:
        layers: Adapted layers, by name.

    Attributes:
        weights: The merged weights, float32, by name.
    """

    def __init__(self, layers: dict[str, Any]):
        self.weights = {
            name: torch.empty_like(layer.base_layer.weight, dtype=torch.float32) for name, layer in layers.items()
        }
        self._layers = layers
        self.update()

    def update(self) -> None:
        """Recompute the weights from the current factors."""
        for name, layer in self._layers.items():
            weight = self.weights[name]
            weight.detach_()
            weight.copy_(layer.base_layer.weight)
            weight.addmm_(
                layer.lora_B["default"].weight, layer.lora_A["default"].weight, alpha=layer.scaling["default"]
            )


@contextlib.contextmanager
def logits_only_at(head: nn.Module, positions: Tensor) -> Iterator[None]:
    """Compute the logits at some positions only, within this context.

    The logits of whole prompts would be the largest tensor of all.

    Args:
        head: The layer that maps hidden states to logits.
        positions: int64 (N, P), of each row.
    """

    def keep_positions(_: nn.Module, args: tuple) -> tuple:
        hidden = args[0]
        return (hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1])),)

    hook = head.register_forward_pre_hook(keep_positions)
    try:
        yield
    finally:
        hook.remove()
