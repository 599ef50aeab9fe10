"""Image classification with convolutional networks: global magnitude pruning over the convolutions."""

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsity
from trainables.config import TrialConfig, check_name, construct
from trainables.data.images import Images, split
from trainables.task import Task

__all__ = ["CNN"]

EVALUATION_BATCH = 512
PADDING = 4  # pixels of zeros around an image that is cropped


@dataclass(frozen=True)
class LoadedImages:
    """A dataset as the trials of a node share it: the arrays, and the training split's statistics per channel."""

    images: Images
    mean: list[float]
    std: list[float]


class CNN(Task):
    """Cross-entropy on images; metrics `acc` (fraction right) and `loss` (nats, mean over images).

    A network that assigns every image of a split to one class is `collapsed`.

    Data: uint8 (N, C, H, W), kept on the device as it is; a batch is scaled to [0, 1], normalized by the mean and
    standard deviation of the training split per channel, and, where the dataset says so, cropped and flipped at random.
    """

    objective = "acc"

    @classmethod
    def load(cls, config: TrialConfig, root: str | None = None) -> "LoadedImages":
        check_name("trainables.datasets", config.dataset, "dataset")
        images = construct("data", sparsity.find("trainables.datasets", config.dataset), root, arguments=config.data)
        train, _ = images.split(config.train_size)  # says now whether train_size can be had
        return LoadedImages(images, *channel_statistics(images.train_images[train], images.max_value))

    def __init__(self, config: TrialConfig, data: "LoadedImages", device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.data = data.images
        self.mean, self.std = data.mean, data.std
        self._mean, self._std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (data.mean, data.std))
        self.architecture, self.model_arguments = config.architecture, config.model
        self.shape = {"num_classes": self.data.num_classes, "in_channels": self.data.train_images.shape[1]}
        self.eval_size = config.eval_size
        images, labels = self._tensors(self.data.train_images, self.data.train_labels)
        train, validation = (torch.from_numpy(rows).to(self.device) for rows in self.data.split(config.train_size))
        self.splits = {"train": (images, labels, train), "validation": (images, labels, validation[: self.eval_size])}

    def _tensors(self, *arrays: np.ndarray) -> list[Tensor]:
        """Views of the arrays on a CPU (they may lie read-only in memory that all trials of a node share)."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return [torch.from_numpy(array).to(self.device) for array in arrays]

    def _split(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """All images, all labels, and the rows of them that make the split."""
        if name == "test" and "test" not in self.splits:  # only a confirmation reads it
            images, labels = self._tensors(self.data.test_images, self.data.test_labels)
            rows = torch.arange(len(labels))
            if self.eval_size is not None:  # at random: images may be stored by class
                rows = torch.from_numpy(split(len(labels), 0.0, min(self.eval_size, len(labels)))[0])
            self.splits["test"] = (images, labels, rows.to(self.device))
        return self.splits[name]

    def build_model(self) -> nn.Module:
        build = sparsity.find("trainables.architectures", self.architecture)
        model = construct("model", build, **self.shape, arguments=self.model_arguments)
        return model.to(self.device, memory_format=torch.channels_last)  # what convolutions are fastest in

    def describe_model(self) -> dict:
        return {
            "architecture": self.architecture,
            "model": {**self.shape, **self.model_arguments},
            "input": {"divide_by": self.data.max_value, "mean": self.mean, "std": self.std, "layout": "NCHW"},
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
        # All of the epoch's random numbers go to the device at once: no step waits for a copy.
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
        with self.autocast():
            return model(self.inputs(batch)).float()

    def inputs(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[0]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        was_training = model.training
        model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        classes = []  # predicted and true, (2, n) of each batch
        total = 0
        for batch in self.batches(split, EVALUATION_BATCH):
            logits, labels = self.forward(model, batch), batch[1]
            predicted = logits.argmax(1).masked_fill_(logits.isnan().any(1), -1)  # argmax takes a nan for the largest
            correct += (predicted == labels).sum()
            classes.append(torch.stack([predicted, labels]))
            loss += F.cross_entropy(logits, labels, reduction="sum").double()
            total += len(labels)
        model.train(was_training)
        lowest, highest = torch.cat(classes, 1).aminmax(dim=1)
        same = (lowest == highest).tolist()
        return {
            "acc": correct.item() / total,
            # A pruned network can overflow; the metric stays a number.
            "loss": min(torch.nan_to_num(loss, nan=torch.inf).item() / total, 1e9),
            "collapsed": float(same == [True, False]),
        }

    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        return {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def channel_statistics(images: np.ndarray, max_value: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (N, C, H, W) images scaled to [0, 1], from exact counts."""
    levels = np.arange(256) / max_value
    mean, std = [], []
    blocks = np.array_split(images, 1 + len(images) // 4096)  # bincount makes eight bytes of one
    for channel in range(images.shape[1]):
        totals = sum(np.bincount(block[:, channel].ravel(), minlength=256) for block in blocks)
        counts = totals / images[:, channel].size
        mean.append(float(counts @ levels))
        std.append(float(np.sqrt(counts @ (levels - mean[-1]) ** 2)) or 1.0)
    return mean, std


def crop_flip(images: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Each image of (N, C, H, W), with PADDING zeros around it, cropped to its size from row and column shifts[i], from
    0 to 2 PADDING, and then mirrored where flips[i].

    The whole batch at once: one gather, whatever the number of images.
    """
    n, _, height, width = images.shape
    rows = shifts[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(n, width)
    columns = shifts[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    padded = F.pad(images, (PADDING,) * 4)
    batch = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
