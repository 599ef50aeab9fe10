"""Change the sizes of a network's tensors, and the numbers of its layers that say so."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["resize"]


def resize(model: nn.Module, changes: Mapping[str, Any]) -> nn.Module:
    """Give a network the sizes of its shrunk copy, in place; load the shrunk state dict afterwards.

    Args:
        model: A network of the architecture that was shrunk, at its full size.
        changes: `Shrunk.changes`, or the same from JSON: `shapes` has the new shape of each parameter and buffer by its
            name in the state dict, including biases of layers that had none, and `attributes` the new values of
            attributes such as `groups`, by the layer's name.

    Returns:
        The model. Its resized tensors are not initialized.

    Raises:
        ValueError: If the changes are those of another network.
    """
    # a tensor that the network has under two names is replaced by one; the old one is kept, so that its id is its own
    replaced: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    try:
        for name, shape in changes["shapes"].items():
            path, _, attribute = name.rpartition(".")
            layer = model.get_submodule(path)
            old = getattr(layer, attribute)
            if old is None:
                weight = layer.get_parameter("weight")
                layer.register_parameter(attribute, nn.Parameter(weight.new_empty(shape), weight.requires_grad))
                continue
            if len(old.shape) != len(shape) or any(size > had for size, had in zip(shape, old.shape, strict=True)):
                raise ValueError(
                    f"resize: changes must fit {type(model).__name__}, where the shape of {name} is "
                    f"{tuple(old.shape)}, got {tuple(shape)}"
                )
            if id(old) not in replaced:
                empty = old.new_empty(shape)
                new = nn.Parameter(empty, old.requires_grad) if isinstance(old, nn.Parameter) else empty
                replaced[id(old)] = old, new
            setattr(layer, attribute, replaced[id(old)][1])
        for path, attributes in changes["attributes"].items():
            for attribute, number in attributes.items():
                getattr(model.get_submodule(path), attribute)
                setattr(model.get_submodule(path), attribute, number)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"resize: changes must be those of a shrunk {type(model).__name__}, got {type(error).__name__}: {error}"
        ) from error
    return model
