"""Networks that take raw inputs: the preparation that `input` in a checkpoint's config.json describes, as a module."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

__all__ = ["Deployable", "deployable"]

NUM_TOKENS = 16  # length of the texts that an exported language model is compared and timed with


class Deployable(nn.Module):
    """A network with the preparation of its inputs: raw inputs to the outputs of the network.

    Args:
        network: The network, which takes prepared inputs.

    Attributes:
        input_name: Name of the input in an exported graph.
        output_name: Name of the output.
        dtype: Type of the raw inputs.
        dynamic: The axes of the raw inputs that may have any size, by name.
        shape: The shape of the raw inputs without the batch, None where any size is allowed.
        largest: The largest raw input, if they are whole numbers from 0.
    """

    input_name: ClassVar[str] = "images"
    output_name: ClassVar[str] = "logits"
    dtype: ClassVar[torch.dtype] = torch.uint8
    dynamic: ClassVar[Mapping[int, str]] = {0: "batch"}
    shape: tuple[int | None, ...]
    largest: int | None = None

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def example(self, batch_size: int, *, seed: int = 0) -> Tensor:
        """Random raw inputs, uniform over the values that are allowed."""
        raise NotImplementedError

    def prepare(self, raw: Tensor) -> Any:
        """The network's inputs: a tensor, or keyword arguments in a dictionary."""
        return raw

    def forward(self, raw: Tensor) -> Tensor:
        return self.network(self.prepare(raw))


class Images(Deployable):
    """Images (N, C, H, W) of uint8, normalized by constants: (x / divide_by - mean) / std for each channel."""

    def __init__(self, network: nn.Module, prepare: Mapping[str, Any], size: tuple[int, int]):
        super().__init__(network)
        self.divide_by = prepare["divide_by"]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(prepare["mean"], dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(prepare["std"], dtype=torch.float32).view(1, -1, 1, 1))
        self.shape = (len(prepare["mean"]), *size)
        self.largest = self.divide_by

    def example(self, batch_size: int, *, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        shape = [batch_size, *self.shape]
        return torch.randint(0, self.divide_by + 1, shape, generator=generator, dtype=torch.uint8)  # type: ignore[arg-type]

    def prepare(self, raw: Tensor) -> Tensor:
        return (raw.float() / self.divide_by - self.mean) / self.std


class Examination(Images):
    """All slices (N, C, H, W) of one examination, normalized by their mean and standard deviation for each channel.

    MRI intensities have no unit, so that the scale follows from the slices themselves; see `trainables.data.slices`. A
    constant channel is divided by 1.
    """

    def __init__(self, network: nn.Module, prepare: Mapping[str, Any], size: tuple[int, int]):
        one = [1.0] * len(prepare["channels"])
        super().__init__(network, {**prepare, "mean": one, "std": one}, size)

    def prepare(self, raw: Tensor) -> Tensor:
        images = raw.float() / self.divide_by
        centred = images - images.mean((0, 2, 3), keepdim=True)
        std = centred.square().mean((0, 2, 3), keepdim=True).sqrt()
        return centred / torch.where(std > 0, std, torch.ones_like(std))


class Tokens(Deployable):
    """Token ids (N, T) of int64 to the logits (N, T, vocabulary) of the next token."""

    input_name = "tokens"
    dtype = torch.int64
    dynamic: ClassVar[Mapping[int, str]] = {0: "batch", 1: "length"}
    shape = (None,)

    def __init__(self, network: nn.Module):
        super().__init__(network)
        self.vocabulary: int = network.get_input_embeddings().num_embeddings  # type: ignore[operator]
        self.largest = self.vocabulary - 1

    def example(self, batch_size: int, *, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, self.vocabulary, (batch_size, NUM_TOKENS + 3 * seed), generator=generator)

    def prepare(self, raw: Tensor) -> dict[str, Any]:
        return {"input_ids": raw, "use_cache": False}

    def forward(self, raw: Tensor) -> Tensor:
        return self.network(**self.prepare(raw)).logits


class Prepared(Deployable):
    """Inputs of float32 that need no preparation."""

    input_name, output_name = "inputs", "outputs"
    dtype = torch.float32

    def __init__(self, network: nn.Module, shape: tuple[int, ...]):
        super().__init__(network)
        self.shape = shape

    def example(self, batch_size: int, *, seed: int = 0) -> Tensor:
        return torch.randn(batch_size, *self.shape, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def deployable(network: nn.Module, prepare: Mapping[str, Any], image_size: int | None = None) -> Deployable:
    """The network with the preparation of its inputs, in evaluation mode.

    Args:
        network: The network.
        prepare: `input` of a checkpoint's config.json. Its entries decide the preparation: `tokenizer` (a language
            model), `mean` and `std` with `divide_by` (images), `channels` with `divide_by` (slices of an examination),
            or `shape` alone (float32 inputs of this shape, taken as they are).
        image_size: Height and width of the images, if `prepare` does not say.

    Raises:
        ValueError: If the description is none of these, or the size of the images is unknown.
    """
    if "tokenizer" in prepare:
        return Tokens(network).eval()
    if "divide_by" in prepare and ("mean" in prepare or "channels" in prepare):
        size = prepare.get("image_size", image_size)
        if size is None:
            raise ValueError(
                "export: image_size must be given (an earlier version wrote this checkpoint, and its config.json lacks "
                "it), got none: add --image-size, such as --image-size 32"
            )
        height, width = (size, size) if isinstance(size, int) else size
        kind = Images if "mean" in prepare else Examination
        return kind(network, prepare, (height, width)).eval()
    if "shape" in prepare:
        return Prepared(network, tuple(prepare["shape"])).eval()
    raise ValueError(
        "export: input in config.json must describe tokens (tokenizer), images (divide_by, mean, std), slices "
        f"(divide_by, channels) or plain inputs (shape), got {', '.join(prepare) or 'nothing'}: see describe_model of "
        "the task"
    )
