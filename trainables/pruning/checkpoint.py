"""Pruned checkpoints: a folder with `model.safetensors` and `config.json`.

The folder of a language model has the layout of the Hugging Face hub; see `trainables.pruning.hub`.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sparsity
from sparsity import masks
from sparsity.import_strings import is_import_string
from trainables.arguments import construct
from trainables.errors import one_line
from trainables.network_checks import check_network
from trainables.pruning.evaluation import add_biases, added_biases
from trainables.pruning.hub import (
    RECORD,
    hub_description,
    is_language_model,
    write_description,
    write_model_card,
    write_tokenizer,
)
from trainables.pruning.shrinking import resize
from trainables.task import Task
from trainables.weights import tied_names

__all__ = ["load_pruned", "read_description", "save_pruned", "save_weights"]

HUB_KEY = "sparsity_sweeps"  # earlier versions exported language models with our entries here in config.json


def save_pruned(
    folder: Path,
    task: Task,
    model: nn.Module,
    kept: Mapping[str, Tensor],
    description: Mapping[str, Any],
    *,
    shifted: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write the pruned model to `folder`, all of it or nothing; an earlier checkpoint there is replaced.

    The folder's description (see `read_description`) holds what `load_pruned` needs, `description`, and the zeros
    counted in the written tensors: `prunable_sparsity` over the prunable weights, `model_sparsity` over all parameters.
    `added_biases` names the biases that the architecture does not have: a layer without a bias gets one to hold its
    shift.

    Args:
        model: The dense model. It is not changed.
        kept: The masks of one sparsity of an `Evaluation`.
        description: More entries for the description.
        shifted: The shifted values of the same sparsity.
    """
    added = added_biases(model, shifted)
    described = task.describe_model()
    hub = is_language_model(described)
    if hub:
        described = hub_description(described, model)
    tied = tied_names(model)
    state = {**model.state_dict(), **shifted}
    if hub:  # transformers ties them again, and the head of a language model is large
        state = {name: tensor for name, tensor in state.items() if name not in tied}
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    # `kept` may have a later name of a tied weight, if the layer of its first name is not pruned.
    by_first = {tied.get(name, name): mask for name, mask in kept.items()}
    kept_by_name = {name: by_first[tied.get(name, name)] for name in state if tied.get(name, name) in by_first}
    for name, mask in kept_by_name.items():
        state[name].masked_fill_(~mask.cpu(), 0)
    parameters = [state[name] for name in (*(name for name, _ in model.named_parameters()), *added)]
    described = {
        **described,
        **description,
        "added_biases": added,
        "prunable": list(kept),
        "prunable_sparsity": masks.sparsity_of([state[name] for name in kept]),
        "model_sparsity": masks.sparsity_of(parameters),
    }
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process with the same id
    try:
        partial.mkdir(parents=True)
        save_file(state, partial / "model.safetensors", metadata={"format": "pt"})  # transformers looks for the format
        write_description(partial, described, hub=hub)
        if hub:
            write_tokenizer(partial, described, model)  # the model card says so if there is none
            write_model_card(partial, described)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_pruned(folder: str | Path, architecture: str | Callable[..., nn.Module] | None = None) -> nn.Module:
    """Load the pruned model in `folder` as a plain PyTorch module in evaluation mode.

    The removed weights are zeros; there are no hooks and no masks. `input` in the folder's description (see
    `read_description`) says how to prepare inputs. Layers listed under `added_biases` have a bias that the architecture
    does not give them. Nothing is unpickled, and no code runs that only the folder names.

    Args:
        folder: The checkpoint.
        architecture: For a network of your own, the function that builds it or its import string. Left out for the
            networks of this project.

    Raises:
        FileNotFoundError: If config.json or model.safetensors is missing.
        ValueError: If a file is damaged, the two do not belong together, or the network is one of your own and
            `architecture` is left out.
    """
    folder = Path(folder)
    config = read_description(folder)
    recorded, arguments = str(config["architecture"]), config["model"]
    if architecture is None and is_import_string(recorded):
        raise ValueError(
            f"{folder}: architecture must be given (a file must not decide which code runs), got none: "
            f"load_pruned(folder, {recorded!r}) or the function itself"
        )
    architecture = architecture or recorded
    build = sparsity.load("trainables.architectures", architecture) if isinstance(architecture, str) else architecture
    model = construct(f"{folder}: model", build, arguments=arguments)
    check_network(model, recorded)
    try:
        add_biases(model, config.get("added_biases", ()))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: added_biases in config.json must be biases that {recorded} lacks, got {one_line(error)}"
        ) from error
    if shrunk := config.get("shrunk"):
        try:
            resize(model, shrunk)
        except ValueError as error:
            raise ValueError(f"{folder}: shrunk in config.json must fit {recorded}, got {one_line(error)}") from error
    try:
        model.load_state_dict(with_shared(model, load_file(folder / "model.safetensors")))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: model.safetensors must hold the weights of {recorded} {arguments}, got {one_line(error)}"
        ) from error
    return model.eval()


def read_description(folder: Path) -> dict[str, Any]:
    """What the files in `folder` say of its network: `architecture`, its arguments `model`, `input` and more.

    The description is in config.json. In the layout of the Hugging Face hub, which language models have, it is in
    sparsity.json, and config.json is the transformers library's configuration, the network's only argument.

    Raises:
        FileNotFoundError: If there is no config.json.
        ValueError: If it does not describe a network.
    """
    hub = (folder / RECORD).exists()
    try:
        config = json.loads((folder / "config.json").read_text())
        if hub:
            config = {**json.loads((folder / RECORD).read_text()), "model": {"config": config}}
        elif isinstance(config, dict) and HUB_KEY in config:
            config = {**config.pop(HUB_KEY), "model": {"config": config}}
        return {**config, "architecture": config["architecture"], "model": dict(config["model"])}
    except (ValueError, KeyError, TypeError) as error:
        files = (
            f"config.json and {RECORD} must be JSON, the latter with architecture"
            if hub
            else "config.json must be JSON with architecture and model"
        )
        raise ValueError(f"{folder}: {files}, got {one_line(error)}") from error


def save_weights(state: Mapping[str, Tensor], file: Path) -> None:
    """Write a state dict as safetensors. A tensor that has several names, as tied weights have, is written once."""
    once: dict[Any, str] = {}
    for name, tensor in state.items():
        once.setdefault(identity(tensor), name)
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in once.values()}
    save_file(tensors, file, metadata={"format": "pt"})  # transformers looks for the format


def with_shared(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that also has the other names of its tensors (see `save_weights`)."""
    own = model.state_dict()
    written = {identity(own[name]): tensor for name, tensor in state.items() if name in own}
    return {**{name: written[identity(t)] for name, t in own.items() if identity(t) in written}, **state}


def identity(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
