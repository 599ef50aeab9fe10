"""Segmentation of medical images with a UNet, pruned in its convolutions."""

import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsity
from sparsity.import_strings import short_name
from trainables.arguments import construct
from trainables.config import TrialConfig
from trainables.data.slices import Slices
from trainables.data.splits import SPLITS
from trainables.network_checks import check_network
from trainables.task import Task, without_pretrained
from trainables.tasks._augmentation import warp
from trainables.tasks._overlay import draw_overlay
from trainables.tasks._segmentation import counts, hausdorff, tversky
from trainables.weights import trained_weights

__all__ = ["UNet"]

EVALUATION_BATCH = 64
THRESHOLD = 0.5  # probability above which a pixel is predicted to be lesion


@dataclass(frozen=True)
class UNetSettings:
    """Settings of the task `unet`, set by `--task-arg`.

    The defaults of the augmentation are those of Buda's code for the LGG dataset.

    Attributes:
        dice_weight: Factor of the Dice term in the loss, >= 0.
        mirror: Whether to mirror half of the training slices left to right.
        angle: Largest rotation of training slices in degrees, in [0, 180].
        scale: Largest change of size of training slices, as a fraction, in [0, 1).
        alpha: Weight of false positives in the Tversky index, >= 0.
        beta: Weight of false negatives in the Tversky index, >= 0.

    Raises:
        ValueError: If a value is out of range.
    """

    dice_weight: float = 1.0
    mirror: bool = True
    angle: float = 15.0
    scale: float = 0.05
    alpha: float = 0.3
    beta: float = 0.7

    def __post_init__(self) -> None:
        for name in ("dice_weight", "alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"task_args: {name} must be >= 0 (it is a weight), got {getattr(self, name)}")
        if not isinstance(self.mirror, bool):
            raise ValueError(f"task_args: mirror must be true or false, got {self.mirror!r}")
        if not 0 <= self.angle <= 180:
            raise ValueError(f"task_args: angle must be in [0, 180] degrees, got {self.angle}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"task_args: scale must be in [0, 1) (a fraction of the size), got {self.scale}")


class UNet(Task):
    """Segmentation of slices with cross-entropy and soft Dice.

    Slices stay on the device as uint8 (N, C, S, S). Each batch is scaled to [0, 1] and normalized by the mean and
    standard deviation of each channel over the slice's examination. Training slices are mirrored, rotated and scaled
    with their masks (see `UNetSettings`).

    Loss: with p the probability of lesion and m the mask, the mean over slices of

        mean over pixels of (-m log p - (1 - m) log(1 - p)) + dice_weight * (1 - (2 sum p m + 1) / (sum p + sum m + 1))

    The Dice term is left out for slices without a lesion. With it, training ended in empty predictions for all slices.
    The loss is ours: the paper of WCR states none. It does not depend on how slices are divided into batches.

    Metrics, of pixels with p > 0.5; `_segmentation.py` defines them for empty masks:
        - `f1` (Dice) and `tversky`: from the pixel counts of the whole split.
        - `f1_per_patient`: the mean over patients of their own F1.
        - `hausdorff`: in pixels, the mean over slices.
        - `loss`: as above.
        - `collapsed`: 1 if all pixels of a split are predicted to be background, or all to be lesion.
    """

    objective = "f1"

    @classmethod
    def load(cls, config: TrialConfig, root: str | None = None) -> Slices:
        sparsity.check("trainables.datasets", config.dataset, "dataset")
        slices = construct("data", sparsity.load("trainables.datasets", config.dataset), root, arguments=config.data)
        if not isinstance(slices, Slices):
            raise ValueError(f"dataset: must have image slices with masks (e.g. lgg), got {config.dataset!r}")
        return slices

    def __init__(self, config: TrialConfig, data: Slices, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.settings = construct("task_args", UNetSettings, arguments=config.task_args)
        self.data = data
        self.architecture, self.model_arguments = config.architecture, config.model
        self.shape = {"num_classes": 1, "in_channels": len(self.data.channels)}
        self.splits_read = ("validation", "test") if config.read_test else ("validation",)
        sizes = {"train": config.train_size, "validation": config.eval_size, "test": config.eval_size}
        self.rows = {split: choose_rows(self.data, split, size) for split, size in sizes.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.images, self.masks = (torch.from_numpy(a).to(self.device) for a in (data.images, data.masks))
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self.device)[:, :, None, None] for v in (data.mean, data.std)
        )

    def build_model(self) -> nn.Module:
        build = sparsity.load("trainables.architectures", self.architecture)
        model = construct("model", build, **self.shape, arguments=self.model_arguments)
        check_network(model, short_name(self.architecture))
        return self.placed(model)

    def placed(self, network: nn.Module) -> nn.Module:
        layout = torch.channels_last  # the fastest one for convolutions
        return network.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def describe_model(self) -> dict:
        # The checkpoint overwrites the encoder's weights, so they need not be read again.
        arguments = without_pretrained(self.model_arguments)
        return {
            "architecture": self.architecture,
            "model": {**self.shape, **arguments},
            "input": {
                "channels": list(self.data.channels),
                "image_size": self.data.images.shape[-1],
                "divide_by": self.data.max_value,
                "subtract": "mean of the channel over all slices of the examination",
                "then_divide_by": "its standard deviation",
                "layout": "NCHW",
                "threshold": THRESHOLD,
            },
            "split": {split: list(self.data.split[split]) for split in SPLITS},
        }

    def steps_per_epoch(self, batch_size: int) -> int:
        return max(1, len(self.rows["train"]) // batch_size)

    def batches(self, split: str, batch_size: int, *, seed: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalized images (n, C, S, S) and masks (n, S, S) of 0 and 1, both float."""
        rows = torch.from_numpy(self.rows[split])
        if seed is None:
            for chosen in rows.to(self.device).split(batch_size):
                yield self._normalize(self.images[chosen].float(), chosen), self.masks[chosen].float()
            return
        generator = torch.Generator().manual_seed(seed)
        # The random numbers of the whole epoch are copied to the device at once, so that no step waits for a copy.
        rows = rows[torch.randperm(len(rows), generator=generator)].to(self.device)
        mirror, turn, size = torch.rand(3, len(rows), generator=generator).to(self.device)
        mirrored = (mirror < 0.5) & self.settings.mirror
        angles = (2 * turn - 1) * math.radians(self.settings.angle)
        scales = 1 + (2 * size - 1) * self.settings.scale
        chunks = zip(*(t.split(batch_size) for t in (rows, mirrored, angles, scales)), strict=True)
        for chosen, *how in itertools.islice(chunks, self.steps_per_epoch(batch_size)):
            images, masks = warp(self.images[chosen].float(), self.masks[chosen].float(), *how)
            yield self._normalize(images, chosen), masks

    def _normalize(self, images: Tensor, rows: Tensor) -> Tensor:
        images = images.div(self.data.max_value).sub_(self._mean[rows]).div_(self._std[rows])
        return images.contiguous(memory_format=torch.channels_last)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self._losses(self.forward(model, batch), batch[1]).mean()

    def _losses(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Compute the loss of each slice, (n,)."""
        entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((1, 2))
        probabilities = logits.sigmoid()
        both, either = (probabilities * masks).sum((1, 2)), (probabilities + masks).sum((1, 2))
        dice = (2 * both + 1) / (either + 1)
        return entropy + self.settings.dice_weight * masks.amax((1, 2)) * (1 - dice)

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Logits of the lesion, (n, S, S)."""
        with self.forward_pass(model):
            return model(self.inputs(batch)).squeeze(1).float()

    def inputs(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return batch[0]

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        was_training = model.training
        model.eval()
        predicted, losses = [], []
        for batch in self.batches(split, EVALUATION_BATCH):
            logits = self.forward(model, batch)
            predicted.append(logits > 0)  # p > 0.5; False for nan
            losses.append(self._losses(logits, batch[1]).double())
        model.train(was_training)
        # A pruned network can overflow, but metrics must be finite.
        loss = min(torch.cat(losses).mean().nan_to_num(nan=torch.inf).item(), 1e9)
        found = torch.cat(predicted).cpu().numpy()
        truth = self.data.masks[self.rows[split]] > 0
        collapsed = found.all() == found.any() and truth.all() != truth.any()
        return {**self._metrics(found, split), "loss": loss, "collapsed": float(collapsed)}

    def _metrics(self, predicted: np.ndarray, split: str) -> dict[str, float]:
        """Compute the metrics of predicted masks, bool (N, S, S), for the slices of a split."""
        rows = self.rows[split]
        truth = self.data.masks[rows] > 0
        each = counts(predicted, truth)
        patients, number = np.unique(self.data.patients[rows], return_inverse=True)
        by_patient = np.zeros((len(patients), 3), np.int64)
        np.add.at(by_patient, number, each)
        return {
            "f1": float(tversky(each.sum(axis=0))),
            "f1_per_patient": float(tversky(by_patient).mean()),
            "tversky": float(tversky(each.sum(axis=0), self.settings.alpha, self.settings.beta)),
            "hausdorff": float(np.mean([hausdorff(*pair) for pair in zip(predicted, truth, strict=True)])),
        }

    def prunable(self, model: nn.Module) -> dict[str, Tensor]:
        return trained_weights(model, nn.Conv2d)

    def output_shape(self, batch: tuple[Tensor, Tensor]) -> tuple[int, ...]:
        return len(batch[1]), 1, *batch[1].shape[1:]

    def illustrate(self, models: Mapping[float, nn.Module], folder: Path) -> None:
        """Write overlay.png and split.json.

        overlay.png shows some validation slices with the predictions. split.json lists the patients of each split,
        its numbers of slices and lesions, and the metrics of two trivial predictions: nothing, and everything.
        """
        rows = self._shown_rows()
        predicted = {}
        with torch.no_grad():
            chosen = torch.from_numpy(rows).to(self.device)
            batch = (self._normalize(self.images[chosen].float(), chosen), self.masks[chosen].float())
            for level, model in models.items():
                predicted[f"pruned at {level:g}" if level else "dense"] = (self.forward(model, batch) > 0).cpu().numpy()
        names = [f"{self.data.patients[row]}, {self.data.numbers[row]}" for row in rows]
        images, truth = self.data.images[rows, self.data.shown], self.data.masks[rows] > 0
        figure = draw_overlay(names, self.data.channels[self.data.shown], images, truth, predicted)
        figure.savefig(folder / "overlay.png", dpi=110)
        (folder / "split.json").write_text(json.dumps(self._describe_split(), indent=2, allow_nan=False))

    def _shown_rows(self) -> np.ndarray:
        """Choose the slices with the largest lesions of three patients, and the brightest slice without a lesion.

        The three are evenly spaced in the sorted list of validation patients with a lesion. A bright slice shows much
        of the brain.
        """
        rows = self.rows["validation"]
        sizes = self.data.masks[rows].sum(axis=(1, 2), dtype=np.int64)
        order = sizes.argsort(kind="stable")
        largest = {
            str(self.data.patients[row]): row for row, size in zip(rows[order], sizes[order], strict=True) if size
        }
        shown = [largest[name] for name in sorted(largest)[:: max(1, len(largest) // 3)]][:3]
        healthy = rows[sizes == 0]
        if len(healthy):
            shown.append(healthy[self.data.images[healthy, self.data.shown].mean(axis=(1, 2)).argmax()])
        return np.array(shown)

    def _describe_split(self) -> dict[str, dict]:
        described: dict[str, dict] = {}
        for split, rows in self.rows.items():
            ill = self.data.masks[rows].any(axis=(1, 2))
            patients = self.data.split[split]
            described[split] = {
                "patients": list(patients),
                "patients_without_lesion": sorted(set(patients) - set(self.data.patients[rows[ill]].tolist())),
                "slices": len(rows),
                "slices_with_lesion": int(ill.sum()),
                "fraction_of_pixels_with_lesion": float(self.data.masks[rows].mean()),
            }
            if split in self.splits_read:
                shape = (len(rows), *self.data.masks.shape[1:])
                described[split]["all_background"] = self._metrics(np.zeros(shape, bool), split)
                described[split]["all_foreground"] = self._metrics(np.ones(shape, bool), split)
        return described


def choose_rows(slices: Slices, split: str, size: int | None) -> np.ndarray:
    """Choose evenly spaced slices of a split, because neighbours look alike.

    Args:
        slices: The dataset.
        split: "train", "validation" or "test".
        size: Number of slices. None chooses all. A split for evaluation may have fewer.

    Returns:
        Rows of the dataset, int64.

    Raises:
        ValueError: If the training split has fewer slices, or no chosen slice has a lesion.
    """
    rows = slices.rows(split)
    if size is None:
        return rows
    if split == "train" and size > len(rows):
        raise ValueError(f"train_size: must be at most {len(rows)} (the number of training slices), got {size}")
    rows = rows[np.arange(min(size, len(rows))) * len(rows) // min(size, len(rows))]
    if not slices.masks[rows].any():
        argument = "train_size" if split == "train" else "eval_size"
        raise ValueError(
            f"{argument}: none of the {len(rows)} chosen slices of the {split} split has a lesion; choose a larger size"
        )
    return rows
