"""Export a pruned checkpoint: write its network in one or more formats, run the files, and measure what they cost."""

import copy
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsity
from sparsity import masks
from trainables.files import new_folder
from trainables.pruning.checkpoint import load_pruned, read_description
from trainables.pruning.exporting.deployable import Deployable, deployable
from trainables.pruning.exporting.format import Format
from trainables.pruning.exporting.measuring import NUM_RUNS, costs
from trainables.pruning.hub import (
    hub_description,
    is_language_model,
    write_description,
    write_model_card,
    write_tokenizer,
)
from trainables.pruning.shrinking import Shrunk
from trainables.pruning.shrinking import shrink as shrink_network

__all__ = ["TOLERANCE", "export", "format_names"]

FORMATS = "trainables.pruning.exporting.formats"
TOLERANCE = 1e-4  # largest difference of an exported network's outputs, relative to the largest output
SOFTWARE = ("torch", "onnx", "onnxruntime", "transformers")


def format_names() -> list[str]:
    """The formats as the command line spells them."""
    return [name.replace("_", "-") for name in sparsity.names(FORMATS)]


def export(
    checkpoint: str | Path,
    to: str | Path,
    *,
    formats: Sequence[str] = ("safetensors",),
    architecture: str | None = None,
    dense: str | Path | None = None,
    shrink: bool = False,
    multiple_of: int = 8,
    tolerance: float = 0.0,
    image_size: int | None = None,
    num_runs: int = NUM_RUNS,
    seconds: float = 10.0,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Export the network of a pruned checkpoint to a new folder.

    Each written file is run on random raw inputs and compared with the network in PyTorch. The folder appears only if
    all of them agree.

    Args:
        checkpoint: A folder that `load_pruned` reads.
        to: The folder to write: the description, and a file for each format.
        formats: Names of files in `trainables/pruning/exporting/formats`; "-" may stand for "_".
        architecture: The import string of a network of your own (see `load_pruned`).
        dense: The checkpoint of the network before pruning, which is measured too.
        shrink: Whether to export the network without the channels that its output does not depend on. The shrunk
            network is measured in any case.
        multiple_of: See `trainables.shrink`.
        tolerance: See `trainables.shrink`; above 0 the result is not exact.
        image_size: Height and width of the images, if the checkpoint does not say.
        num_runs: Runs of each latency (see `costs`); 0 measures nothing.
        seconds: See `costs`.
        origin: More entries for `export` in the description.

    Returns:
        The entry `export` of the new folder's description:

        - shrunk, exact: whether the network was shrunk, and whether it computes the same as the checkpoint
        - formats: by format, its `file`, `bytes`, and `largest_difference` of an output from PyTorch's
        - tolerance: the largest difference that is allowed, relative to the largest output
        - input, output: name, dtype and shape of the raw inputs and of the outputs, null where any size is allowed; of
          inputs that are whole numbers also the `largest`
        - costs: the rows of `costs`
        - notes: what the folder lacks, in words
        - cpu, software: what the costs were measured with

    Raises:
        ValueError: If a format is unknown, the network cannot be exported, or a file does not give its outputs.
        FileExistsError: If the folder exists.
        FileNotFoundError: If the checkpoint is not there.
    """
    checkpoint, to = Path(checkpoint), Path(to)
    chosen = choose_formats(formats)
    description = read_description(checkpoint)
    loaded = load_pruned(checkpoint, architecture)
    network = deployable(loaded, description["input"], image_size)
    hub = is_language_model(description)
    if hub:
        description = hub_description(description, loaded)
    entry: dict[str, Any] = {"notes": [], "tolerance": TOLERANCE, "shrunk": shrink, "exact": True, **(origin or {})}
    networks = {"pruned": network}
    if shrink or num_runs:
        try:
            smaller = shrunk(network, multiple_of=multiple_of, tolerance=tolerance)
            networks["shrunk" if smaller.exact else "shrunk, not exact"] = copied(network, smaller.model)
        except ValueError as error:
            if shrink:
                raise
            entry["notes"].append(f"not measured shrunk: {error}")
    if shrink:
        network = list(networks.values())[-1]
        description |= {"shrunk": smaller.changes, **zeros_in(smaller.model, description["prunable"])}
        entry["exact"] = smaller.exact
        entry["notes"] += [smaller.note] * bool(smaller.note)
        if not smaller.exact:  # what was measured holds for the network before
            description = {name: value for name, value in description.items() if name not in ("validation", "test")}
        if hub and smaller.changes["shapes"]:
            hub = False
            entry["notes"].append("transformers cannot read the folder, as its layers have one width; load_pruned can")
    with new_folder(to) as folder:
        write_description(folder, description, hub=hub)
        if is_language_model(description):
            entry["notes"] += filter(None, [write_tokenizer(folder, description, loaded, source=checkpoint)])
        if hub:
            write_model_card(folder, description)
        inputs = [network.example(1, seed=1), network.example(5, seed=2)]
        expected = outputs_of(network, inputs)
        entry |= signature(network, inputs, expected)
        entry["formats"] = {}
        for name, made in chosen.items():
            written = made(network, description, architecture)
            written.write(folder)
            difference = largest_difference(name, written.run(folder, inputs), expected)
            size = sum(path.stat().st_size for path in folder.glob(f"{made.file}*"))
            entry["formats"][name] = {"file": made.file, "bytes": size, "largest_difference": difference}
        if num_runs:
            if dense is not None:
                before = deployable(load_pruned(dense, architecture), description["input"], image_size)
                networks = {"dense": before, **networks}
            entry["costs"] = costs(networks, num_runs=num_runs, seconds=seconds)
        entry |= {"cpu": cpu_name(), "software": {name: metadata.version(name) for name in SOFTWARE}}
        write_description(folder, {**description, "export": entry}, hub=hub)
    return entry


def shrunk(network: Deployable, *, multiple_of: int, tolerance: float) -> Shrunk:
    """The network inside, without the channels that its output does not depend on."""
    inputs = network.prepare(network.example(2))
    return shrink_network(network.network, inputs, multiple_of=multiple_of, tolerance=tolerance)


def zeros_in(network: nn.Module, prunable: Sequence[str]) -> dict[str, float]:
    """The entries of a description that count zeros: most of them are gone after shrinking."""
    state = network.state_dict()
    weights = [state[name] for name in prunable if name in state]
    return {
        "prunable_sparsity": masks.sparsity_of(weights) if weights else 0.0,
        "model_sparsity": masks.sparsity_of(network.parameters()),
    }


def copied(network: Deployable, other: nn.Module) -> Deployable:
    """The preparation of inputs, with another network."""
    made = copy.copy(network)
    made._modules = {**network._modules, "network": other}
    return made.eval()


def choose_formats(names: Iterable[str]) -> dict[str, type[Format]]:
    chosen = {}
    for name in names:
        spelled = name.replace("_", "-")
        if spelled not in format_names():
            raise ValueError(f"format: must be one of {', '.join(format_names())}, got {name!r}")
        chosen[spelled] = sparsity.load(FORMATS, spelled.replace("-", "_"))
    return chosen


def outputs_of(network: Deployable, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The network's outputs in PyTorch.

    Raises:
        ValueError: If they are not finite.
    """
    with torch.no_grad():
        outputs = [network(x) for x in inputs]
    for output in outputs:
        if not output.isfinite().all():
            raise ValueError(
                "export: the network's outputs must be finite, got nan or infinity for random inputs (pruning may have "
                "destroyed it): choose another --level or --trial"
            )
    return outputs


def largest_difference(name: str, outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest absolute difference of outputs.

    Raises:
        ValueError: If it is above the tolerance, or the shapes differ.
    """
    largest = 0.0
    for found, wanted in zip(outputs, expected, strict=True):
        if found.shape != wanted.shape:
            raise ValueError(
                f"export: outputs of {name} must have the shape {tuple(wanted.shape)} of PyTorch's, got "
                f"{tuple(found.shape)}"
            )
        difference, scale = float((found - wanted).abs().max()), float(wanted.abs().max())
        if not difference <= TOLERANCE * max(scale, 1e-6) or math.isnan(difference):
            raise ValueError(
                f"export: outputs of {name} must differ from PyTorch's by at most {TOLERANCE:g} of the largest one "
                f"({scale:.3g}), got {difference:.3g}"
            )
        largest = max(largest, difference)
    return largest


def signature(network: Deployable, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> dict[str, Any]:
    """Name, dtype and shape of inputs and outputs. Sizes that differ between the examples are None."""
    described: dict[str, Any] = {}
    for kind, name, tensors in (("input", network.input_name, inputs), ("output", network.output_name, outputs)):
        sizes = zip(*(tensor.shape for tensor in tensors), strict=True)
        shape = [one if one == other else None for one, other in sizes]
        described[kind] = {"name": name, "dtype": str(tensors[0].dtype).removeprefix("torch."), "shape": shape}
    if network.largest is not None:
        described["input"]["largest"] = network.largest
    return described


def cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
