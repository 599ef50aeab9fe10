"""Image classification with convolutional networks, pruned in their convolutions."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsity
from sparsity.import_strings import short_name
from trainables.arguments import construct
from trainables.config import TrialConfig
from trainables.data.images import Images
from trainables.data.splits import split_indices
from trainables.network_checks import check_network
from trainables.task import Task, without_pretrained
from trainables.tasks._augmentation import PADDING, crop_flip
from trainables.weights import trained_weights

__all__ = ["CNN"]

EVALUATION_BATCH = 512
EVALUATION_BATCH_ON_CPU = 64  # the activations of more images do not fit into a core's cache


@dataclass(frozen=True)
class LoadedImages:
    """A dataset of images, which the trials of a node share.

    Attributes:
        images: The dataset.
        mean: Mean of each channel over the training images, of pixels scaled to [0, 1].
        std: Standard deviation, as `mean`.
    """

    images: Images
    mean: list[float]
    std: list[float]


@dataclass(frozen=True)
class CNNSettings:
    """The task `cnn` has no settings."""


class CNN(Task):
    """Image classification with cross-entropy.

    Images stay on the device as uint8 (N, C, H, W). Each batch is scaled to [0, 1] and normalized by the mean and
    standard deviation of each channel over the training images. Training images are cropped and mirrored at random if
    the dataset says so.

    Metrics:
        - `acc`: the fraction of images classified correctly.
        - `loss`: cross-entropy in nats, the mean over images.
        - `collapsed`: 1 if the network puts all images of a split into one class.
    """

    objective = "acc"
    settings_class: ClassVar[type] = CNNSettings

    @classmethod
    def load(cls, config: TrialConfig, root: str | None = None) -> LoadedImages:
        sparsity.check("trainables.datasets", config.dataset, "dataset")
        images = construct("data", sparsity.load("trainables.datasets", config.dataset), root, arguments=config.data)
        if not isinstance(images, Images):
            got = f"{type(images).__name__} of {config.dataset!r}"
            raise ValueError(f"dataset: must be one of labelled images (Images), such as cifar10, got {got}")
        train, _ = images.split(config.train_size)
        return LoadedImages(images, *channel_statistics(images.train_images[train], images.max_value))

    def __init__(self, config: TrialConfig, data: LoadedImages, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.settings: Any = construct("task_args", self.settings_class, arguments=config.task_args)
        self.data = data.images
        self.mean, self.std = data.mean, data.std
        self._mean, self._std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (data.mean, data.std))
        self.architecture, self.model_arguments = config.architecture, config.model
        self.shape = {"num_classes": self.data.num_classes, "in_channels": self.data.train_images.shape[1]}
        self.eval_size = config.eval_size
        images, labels = self._tensors(self.data.train_images, self.data.train_labels)
        split = self.data.split(config.train_size, subset=self.eval_size is not None)
        train, validation = (torch.from_numpy(rows).to(self.device) for rows in split)
        self.splits = {"train": (images, labels, train), "validation": (images, labels, validation[: self.eval_size])}

    def _tensors(self, *arrays: np.ndarray) -> list[Tensor]:
        """Move arrays to the device. On a CPU, the tensors are views of memory that all trials of a node share."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return [torch.from_numpy(array).to(self.device) for array in arrays]

    def _split(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return all images, all labels, and the rows of both that belong to a split."""
        if name == "test" and "test" not in self.splits:  # moved to the device on first use: most trials do not read it
            images, labels = self._tensors(self.data.test_images, self.data.test_labels)
            rows = torch.arange(len(labels))
            if self.eval_size is not None:  # a random subset: images may be stored by class
                rows = torch.from_numpy(split_indices(len(labels), 0.0, min(self.eval_size, len(labels)))[0])
            self.splits["test"] = (images, labels, rows.to(self.device))
        return self.splits[name]

    def build_model(self) -> nn.Module:
        build = sparsity.load("trainables.architectures", self.architecture)
        model = construct("model", build, **self.shape, arguments=self.model_arguments)
        check_network(model, short_name(self.architecture))
        return self.placed(model)

    def placed(self, network: nn.Module) -> nn.Module:
        layout = torch.channels_last  # the fastest one for convolutions
        return network.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def describe_model(self) -> dict:
        return {
            "architecture": self.architecture,
            "model": {**self.shape, **without_pretrained(self.model_arguments)},
            "input": {
                "image_size": list(self.data.train_images.shape[2:]),
                "divide_by": self.data.max_value,
                "mean": self.mean,
                "std": self.std,
                "layout": "NCHW",
            },
        }

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, len(self.splits["train"][2]) // batch_size)

    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels, rows = self._split(split)
        if seed is None:
            for chosen in rows.split(batch_size):
                yield self._normalize(images[chosen]), labels[chosen]
            return
        generator = torch.Generator().manual_seed(seed)
        # The random numbers of the whole epoch are copied to the device at once, so that no step waits for a copy.
        rows = rows[torch.randperm(len(rows), generator=generator).to(self.device)]
        shifts = torch.randint(0, 2 * PADDING + 1, (len(rows), 2), generator=generator).to(self.device)
        mirrored = 0.5 if self.data.augmentation == "crop_flip" else 0.0
        flips = (torch.rand(len(rows), generator=generator) < mirrored).to(self.device)
        chunks = zip(rows.split(batch_size), shifts.split(batch_size), flips.split(batch_size), strict=True)
        for chosen, shift, flip in itertools.islice(chunks, self.steps_per_epoch(batch_size)):
            batch = images[chosen]
            if self.data.augmentation != "none":
                batch = crop_flip(batch, shift, flip)
            yield self._normalize(batch), labels[chosen]

    def _normalize(self, images: Tensor) -> Tensor:
        images = images.float().div_(self.data.max_value).sub_(self._mean).div_(self._std)
        return images.contiguous(memory_format=torch.channels_last)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.forward(model, batch), batch[1])

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with self.forward_pass(model):
            return model(self.inputs(batch)).float()

    def inputs(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[0]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        was_training = model.training
        model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        on_cpu = self.device.type == "cpu"
        classes = []  # predicted and true classes of each batch, (2, n)
        total = 0
        for batch in self.batches(split, EVALUATION_BATCH_ON_CPU if on_cpu else EVALUATION_BATCH):
            logits, labels = self.forward(model, batch), batch[1]
            predicted = logits.argmax(1).masked_fill_(
                logits.isnan().any(1), -1
            )  # argmax treats nan as the largest value
            correct += (predicted == labels).sum()
            classes.append(torch.stack([predicted, labels]))
            loss += F.cross_entropy(logits, labels, reduction="sum").double()
            total += len(labels)
        model.train(was_training)
        lowest, highest = torch.cat(classes, 1).aminmax(dim=1)
        same = (lowest == highest).tolist()
        return {
            "acc": correct.item() / total,
            # A pruned network can overflow, but metrics must be finite.
            "loss": min(torch.nan_to_num(loss, nan=torch.inf).item() / total, 1e9),
            "collapsed": float(same == [True, False]),
        }

    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        return trained_weights(model, nn.Conv2d)

    def output_shape(self, batch: tuple[Tensor, Tensor]) -> tuple[int, ...]:
        return len(batch[1]), self.data.num_classes


def channel_statistics(images: np.ndarray, max_value: int) -> tuple[list[float], list[float]]:
    """Compute mean and standard deviation of each channel of images in [0, 1].

    They are computed from exact counts of pixel values.

    Args:
        images: uint8 (N, C, H, W).
        max_value: The pixel value that is scaled to 1.

    Returns:
        The mean and the standard deviation of each channel; the standard deviation of a constant channel is set to 1.
    """
    levels = np.arange(256) / max_value
    mean, std = [], []
    blocks = np.array_split(images, 1 + len(images) // 4096)  # in blocks: bincount takes eight bytes per pixel
    for channel in range(images.shape[1]):
        totals = sum(np.bincount(block[:, channel].ravel(), minlength=256) for block in blocks)
        counts = totals / images[:, channel].size
        mean.append(float(counts @ levels))
        std.append(float(np.sqrt(counts @ (levels - mean[-1]) ** 2)) or 1.0)
    return mean, std
