"""The interface between the training loop and a task, and what tasks share."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.config import TrialConfig
from trainables.weights import weights_by_name

__all__ = ["Task", "without_pretrained"]


def without_pretrained(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a network whose weights a checkpoint overwrites, so that pretrained ones need not be read."""
    return {name: value for name, value in arguments.items() if name not in ("pretrained", "encoder_weights")}


class Task(ABC):
    """Data, network, loss and metrics of one kind of problem, independent of optimizers, penalties and Ray.

    Splits are "train", "validation" and "test". The loop reads "test" only if the configuration says `read_test`.

    Args:
        data: What `load` returned. Trials share it, so it must not be written to.

    Attributes:
        objective: Name of the metric of `evaluate` that the search maximizes after pruning.
    """

    objective: ClassVar[str]
    device: torch.device

    @classmethod
    @abstractmethod
    def load(cls, config: TrialConfig, root: str | None) -> Any:
        """Load the data as NumPy arrays. This happens once per node, for all trials.

        Args:
            root: The folder of the dataset, None if it is downloaded or generated.

        Raises:
            ValueError: If data is missing or damaged.
        """

    @abstractmethod
    def __init__(self, config: TrialConfig, data: Any, device: str | torch.device = "cpu"): ...

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Build the network on the task's device, initialized from torch's global random state."""

    def placed(self, network: nn.Module) -> nn.Module:
        """Move a trained network that was loaded to the task's device, in the layout that training uses."""
        return network.to(self.device)

    @abstractmethod
    def describe_model(self) -> dict[str, Any]:
        """What `trainables.load_pruned` needs, as JSON.

        Returns:
            `architecture`, its arguments `model`, and `input`, which says how to prepare inputs.
        """

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int:
        """Number of batches in an epoch of training."""

    @abstractmethod
    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> Iterator[Any]:
        """Iterate over a split once.

        With a seed the examples are shuffled and augmented, and an incomplete last batch is dropped. Without one they
        come in stored order, all of them.
        """

    def parts(self, batch: Any, num: int) -> list[tuple[float, Any]]:
        """Split a batch, so that a step can be computed in the memory of one part.

        This implementation is for a tuple of tensors whose loss is a mean over examples.

        Returns:
            At most `num` pairs of a weight and a part. The weights sum to 1, and the weighted sum of the parts' losses
            is the loss of the batch.
        """
        chunks = list(zip(*(tensor.chunk(num) for tensor in batch), strict=True))
        return [(len(chunk[0]) / len(batch[0]), chunk) for chunk in chunks]

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The task's loss on a batch: a differentiable scalar, without the penalty."""

    def before_penalty(self, model: nn.Module) -> None:
        """Recompute what the penalty sees if it is computed from the parameters; called before each penalty."""
        return None

    @abstractmethod
    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        """The model's outputs on a batch, before any loss: (N, ...), a row per example."""

    @abstractmethod
    def inputs(self, batch: Any) -> Tensor:
        """The part of a batch that the model takes: `model(inputs)` runs."""

    def token_mask(self, batch: Any) -> Tensor | None:
        """Which positions of a batch are tokens: bool (N, T), False = padding. None if there is no padding."""
        return None

    def output_shape(self, batch: Any) -> tuple[int, ...] | None:
        """The shape of the tensor that the network must return for a batch; None if the task takes anything."""
        return None

    @abstractmethod
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Compute the metrics over a split. The model's mode is left as it was.

        Returns:
            Finite values: the objective, `loss`, and more. `collapsed` is 1.0 if the network predicts the same for
            every example although their labels differ, else 0.0: such a network has learned nothing about its inputs,
            or pruning has removed what it had learned.
        """

    @abstractmethod
    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights that pruning may remove, by name."""

    def deployed(self, model: nn.Module) -> nn.Module:
        """The network that is pruned, measured and saved, made of a trained copy: this is where adapters are merged."""
        return model

    def illustrate(self, models: Mapping[float, nn.Module], folder: Path) -> None:
        """Write figures of what the networks do into `folder`. By default there are none.

        Args:
            models: Sparsity (0 and the target) -> network.
        """
        return None

    def regularized(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights that the penalty sees, by name: all that are trained, see `weights_by_name`."""
        return {name: p for name, p in weights_by_name(model) if p.requires_grad}

    def autocast(self) -> contextlib.AbstractContextManager:
        """bfloat16 products over float32 weights on a GPU, plain float32 on a CPU."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()

    @contextlib.contextmanager
    def forward_pass(self, model: nn.Module) -> Iterator[None]:
        """The context of a forward pass: `autocast`, and attention with second derivatives where they may be needed.

        In evaluation mode, a pruning criterion or the measurement of the loss's sharpness may take second derivatives,
        which the fused kernels of attention do not have.
        """
        second = torch.is_grad_enabled() and not model.training
        with self.autocast(), sdpa_kernel(SDPBackend.MATH) if second else contextlib.nullcontext():
            yield
