"""What every task gives to the loop, and what they share."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig

__all__: list[str] = []


class Task(ABC):
    """Data, network, loss and metrics of one kind of problem; knows nothing of optimizers, penalties or Ray.

    objective: the metric of `evaluate` that the search maximizes, after pruning. Splits are "train", "validation" and
    "test"; the loop reads "test" only where a configuration says `read_test`.
    """

    objective: ClassVar[str]
    device: torch.device

    @classmethod
    @abstractmethod
    def load(cls, config: TrialConfig, root: str | None) -> Any:
        """The data as NumPy arrays, read once a node and shared by all its trials. ValueError says what is missing."""

    @abstractmethod
    def __init__(self, config: TrialConfig, data: Any, device: str | torch.device = "cpu"): ...

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The network on the task's device, initialized from torch's global random state."""

    @abstractmethod
    def describe_model(self) -> dict:
        """What `trainables.load_pruned` needs to build the network again: `architecture` and its arguments `model`,
        and how inputs are prepared, `input`. JSON."""

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int: ...

    @abstractmethod
    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> Iterator[Any]:
        """One pass. With a seed: shuffled and augmented, whole batches only; without: in order, as stored."""

    def parts(self, batch: Any, num: int) -> list[tuple[float, Any]]:
        """`batch` in at most `num` parts, each with its weight in the mean that `loss` is; the weights sum to 1.

        A step can then be computed a part at a time in the memory of one. This is for a tuple of tensors whose loss is
        a mean over samples.
        """
        chunks = list(zip(*(tensor.chunk(num) for tensor in batch), strict=True))
        return [(len(chunk[0]) / len(batch[0]), chunk) for chunk in chunks]

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's loss on one batch, a differentiable scalar, penalty not included."""

    def before_penalty(self, model: nn.Module) -> None:
        """Called before each evaluation of the penalty: compute what it sees anew, where that is not parameters."""
        return None

    @abstractmethod
    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        """The model's outputs on one batch before any loss, (N, ...), one row a sample."""

    @abstractmethod
    def inputs(self, batch: Any) -> Tensor:
        """What of a batch the model takes: `model(inputs)` runs."""

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Metrics over a split, the objective among them; every one finite. Leaves the model's mode as it was.

        `collapsed` is 1.0 if the network predicts the same for every example although the examples differ in what is
        right, else 0.0: such a network has learned nothing about its inputs, or pruning has removed what it learned.
        """

    @abstractmethod
    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights that pruning may remove, by name."""

    def deployed(self, model: nn.Module) -> nn.Module:
        """The network as it is pruned, measured and saved, made of a trained copy: where adapters are merged, here."""
        return model

    def illustrate(self, models: Mapping[float, nn.Module], folder: Path) -> None:
        """Write figures of what the networks do, by sparsity (0 and the target), into `folder`. None by default."""
        return None

    def regularized(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights that the penalty sees: trainable tensors of more than one dimension (methods.md)."""
        return {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1}

    def autocast(self) -> contextlib.AbstractContextManager:
        """bfloat16 products over float32 weights on a GPU; plain float32 on a CPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()
