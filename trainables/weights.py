"""Which parameters of a network are weights, which penalties shrink and pruning removes."""

import re
from collections.abc import Iterator

from torch import Tensor, nn

__all__ = ["dense_parameters", "tied_names", "trained_weights", "weights_by_name"]

# Names of learned position embeddings and class tokens: pos_embed (timm), position_embeddings and cls_token
# (transformers' ViT), encoder.pos_embedding and class_token (torchvision), wpe (GPT-2), embed_positions (OPT),
# relative_position_bias_table (Swin)
POSITIONS = re.compile(
    r"(^|\.)(\w*pos(ition(al)?)?_?emb(ed(ding)?s?)?|embed_positions|wpe|relative_position_bias_table|"
    r"(cls|class|dist|reg)_token)(\.weight)?$"
)
# Classes of normalizations: LayerNorm, BatchNorm2d, BatchNormAct2d, LlamaRMSNorm, but not NormalizedLinear
NORMALIZATIONS = re.compile(r"norm(act|tlu|exp|fp32)?(\dd)?(\w\d)?$", re.IGNORECASE)
LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)  # their `weight` is one whatever its shape


def trained_weights(model: nn.Module, *layers: type[nn.Module]) -> dict[str, Tensor]:
    """The weights of the layers of these classes, by name: each once, and none that is frozen.

    A weight that the layer computes, such as that of `weight_norm`, is left out: it is not a parameter.
    """
    found = {
        f"{name}.weight": m.weight
        for name, m in model.named_modules()
        if isinstance(m, layers) and isinstance(m.weight, nn.Parameter)
    }
    first = {id(weight): name for name, weight in reversed(found.items())}
    return {name: w for name, w in found.items() if w.requires_grad and first[id(w)] == name}


def weights_by_name(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Matrices and kernels: parameters of more than one dimension that are multiplied with activations and summed.

    By the names that common libraries give them, these are left out: parameters of normalizations, biases, position
    embeddings and class tokens. So are factors of single channels, such as ConvNeXt's (C, 1, 1), except in a linear
    layer, a convolution or an embedding.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and parameter.is_floating_point() and _is_weight(model, name, parameter):
            yield name, parameter


def _is_weight(model: nn.Module, name: str, parameter: Tensor) -> bool:
    path, _, own = name.rpartition(".")
    owner = model.get_submodule(path)
    if POSITIONS.search(name):
        return False
    if own == "weight" and isinstance(owner, LAYERS):
        return True
    if "bias" in own or NORMALIZATIONS.search(type(owner).__name__):
        return False
    return sum(size > 1 for size in parameter.shape) > 1


def dense_parameters(model: nn.Module) -> list[Tensor]:
    """The trained parameters of more than one dimension that are no weights.

    No criterion prunes them, so optimizers that make weights sparse leave them alone.
    """
    weights = {parameter for _, parameter in weights_by_name(model)}
    return [p for p in model.parameters() if p.requires_grad and p.ndim > 1 and p not in weights]


def tied_names(model: nn.Module) -> dict[str, str]:
    """The further names of tied parameters, with the first name of each."""
    first: dict[Tensor, str] = {}
    names: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(parameter, name) != name:
            names[name] = first[parameter]
    return names
