"""Segmentation of medical images with a UNet: global magnitude pruning over the convolutions."""

import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsity
from trainables.config import TrialConfig, check_name, construct
from trainables.data.slices import SPLITS, Slices
from trainables.task import Task
from trainables.tasks._segmentation import counts, hausdorff, tversky

__all__ = ["UNet"]

EVALUATION_BATCH = 64
THRESHOLD = 0.5  # a pixel is predicted to be lesion above this probability


@dataclass(frozen=True)
class Settings:
    """dice_weight: factor of the Dice term in the loss.
    mirror: mirror half of the training slices, left to right.
    angle: turn them by up to so many degrees; scale: enlarge or shrink them by up to this fraction.
    alpha, beta: weights of false positives and false negatives in the Tversky index.
    ValueError for a value out of range.
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
        if not 0 <= self.angle <= 180:
            raise ValueError(f"task_args: angle must be in [0, 180] degrees, got {self.angle}")
        if not 0 <= self.scale < 1:
            raise ValueError(f"task_args: scale must be in [0, 1) (a fraction of the size), got {self.scale}")


class UNet(Task):
    """Cross-entropy and Dice on slices with masks; pruned by the F1 of the lesion's pixels.

    Loss (ours: the WCR paper states none), the mean over slices, so that it does not depend on how they are batched:
        mean of -m log p - (1 - m) log(1 - p) over pixels  +  dice_weight * (1 - (2 sum p m + 1) / (sum p + sum m + 1)),
    p the probability of lesion and m the mask; the second term, soft Dice, is 0 for slices without a lesion. With it
    there, where it asks for nothing but an empty prediction, training ended in empty predictions for all slices.
    Metrics, of the pixels with p > 0.5: `f1` (Dice) and `tversky` of the pixel counts of the whole split together,
    `f1_per_patient`, the mean of the patients' own, `hausdorff` in pixels of `image_size`, the mean over slices, and
    `loss`. For masks without a lesion see `_segmentation.py`. A network that predicts all pixels of a split to be
    background, or all to be lesion, is `collapsed`.
    Augmentation of training slices, mask and image alike: mirrored, turned, scaled (`Settings`), black around. Its
    defaults are those of Buda's own code for this data set.
    Data: uint8 (N, C, S, S), kept on the device as it is; a batch is scaled to [0, 1] and normalized by the mean and
    standard deviation of each slice's examination per channel. The split goes into the record, as split.json.
    """

    objective = "f1"

    @classmethod
    def load(cls, config: TrialConfig, root: str | None = None) -> Slices:
        check_name("trainables.datasets", config.dataset, "dataset")
        slices = construct("data", sparsity.find("trainables.datasets", config.dataset), root, arguments=config.data)
        if not isinstance(slices, Slices):
            raise ValueError(f"dataset: must be one of slices with masks, such as lgg, got {config.dataset!r}")
        return slices

    def __init__(self, config: TrialConfig, data: Slices, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.settings = construct("task_args", Settings, arguments=config.task_args)
        self.data = data
        self.architecture, self.model_arguments = config.architecture, config.model
        self.shape = {"num_classes": 1, "in_channels": len(self.data.channels)}
        self.splits_read = ("validation", "test") if config.read_test else ("validation",)
        sizes = {"train": config.train_size, "validation": config.eval_size, "test": config.eval_size}
        self.rows = {split: chosen_rows(self.data, split, size) for split, size in sizes.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.images, self.masks = (torch.from_numpy(a).to(self.device) for a in (data.images, data.masks))
        self._mean, self._std = (
            torch.tensor(v, dtype=torch.float32, device=self.device)[:, :, None, None] for v in (data.mean, data.std)
        )

    def build_model(self) -> nn.Module:
        build = sparsity.find("trainables.architectures", self.architecture)
        model = construct("model", build, **self.shape, arguments=self.model_arguments)
        return model.to(self.device, memory_format=torch.channels_last)

    def describe_model(self) -> dict:
        arguments = {
            name: value for name, value in self.model_arguments.items() if name != "encoder_weights"
        }  # overwritten
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
        """Images, normalized (n, C, S, S), and masks (n, S, S) of 0 and 1, both float."""
        rows = torch.from_numpy(self.rows[split])
        if seed is None:
            for chosen in rows.to(self.device).split(batch_size):
                yield self._normalize(self.images[chosen].float(), chosen), self.masks[chosen].float()
            return
        generator = torch.Generator().manual_seed(seed)
        # All of the epoch's random numbers go to the device at once: no step waits for a copy.
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
        """The loss of each slice, (n,)."""
        entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((1, 2))
        probabilities = logits.sigmoid()
        both, either = (probabilities * masks).sum((1, 2)), (probabilities + masks).sum((1, 2))
        dice = (2 * both + 1) / (either + 1)
        return entropy + self.settings.dice_weight * masks.amax((1, 2)) * (1 - dice)

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The logits of lesion, (n, S, S)."""
        with self.autocast():
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
            predicted.append(logits > 0)  # p > 0.5; false for a nan
            losses.append(self._losses(logits, batch[1]).double())
        model.train(was_training)
        # A pruned network can overflow; the metric stays a number.
        loss = min(torch.cat(losses).mean().nan_to_num(nan=torch.inf).item(), 1e9)
        found = torch.cat(predicted).cpu().numpy()
        truth = self.data.masks[self.rows[split]] > 0
        collapsed = found.all() == found.any() and truth.all() != truth.any()
        return {**self._metrics(found, split), "loss": loss, "collapsed": float(collapsed)}

    def _metrics(self, predicted: np.ndarray, split: str) -> dict[str, float]:
        """Of bool masks (N, S, S) for the slices of a split."""
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
        return {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}

    def illustrate(self, models: Mapping[float, nn.Module], folder: Path) -> None:
        """overlay.png: some validation slices with what the networks find in them. split.json: the split's patients,
        what its parts hold, and the metrics of a prediction of nothing and of everything, the least to be better than.
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
        """The largest lesion of each of three validation patients, spread over those that have one, and the brightest
        slice without a lesion, which shows much of the brain."""
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


def chosen_rows(slices: Slices, split: str, size: int | None) -> np.ndarray:
    """The slices of a split, or `size` of them at even distances: neighbours are much alike, and patients few.

    ValueError if there are not so many to train on, or if none of them has a lesion.
    """
    rows = slices.rows(split)
    if size is None:
        return rows
    if split == "train" and size > len(rows):
        raise ValueError(f"train_size: must be at most {len(rows)} (the slices of the training patients), got {size}")
    rows = rows[np.arange(min(size, len(rows))) * len(rows) // min(size, len(rows))]
    if not slices.masks[rows].any():
        argument = "train_size" if split == "train" else "eval_size"
        raise ValueError(f"{argument}: must leave a slice with a lesion in the {split} split, got {size} without one")
    return rows


def warp(images: Tensor, masks: Tensor, mirrored: Tensor, angles: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Each image of (n, C, S, S) and its mask (n, S, S), float: mirrored left to right where mirrored[i], then turned
    counterclockwise by angles[i] radians and enlarged scales[i] times about the middle, zeros around.

    Images are interpolated, bilinear, and masks are not. The whole batch at once.
    """
    cos, sin, flip = angles.cos() / scales, angles.sin() / scales, 1 - 2 * mirrored.float()
    zero = torch.zeros_like(cos)
    # Maps where a pixel is to where it came from. Rows point down, so that this turns counterclockwise to the eye.
    back = torch.stack((flip * cos, -flip * sin, zero, sin, cos, zero), 1).view(-1, 2, 3)
    grid = F.affine_grid(back, list(images.shape), align_corners=False)
    turned = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    return turned, F.grid_sample(masks[:, None], grid, mode="nearest", align_corners=False)[:, 0]


def draw_overlay(
    names: Sequence[str], channel: str, images: np.ndarray, truth: np.ndarray, predicted: Mapping[str, np.ndarray]
) -> Any:
    """A matplotlib figure: a row a slice; the image, the true lesion, and what each network predicts.

    names: (n), of the slices. images: (n, S, S), of one channel. truth: bool (n, S, S); predicted: the same by network.
    Green is the lesion's edge, orange what is predicted; under a prediction stand its F1 and Hausdorff distance.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    columns = [channel, "ground truth", *predicted]
    figure = Figure(figsize=(2.3 * len(columns) + 0.3, 2.55 * len(names)), layout="constrained", facecolor="white")
    grid = figure.subplots(len(names), len(columns), squeeze=False)
    for row, (name, image, lesion) in enumerate(zip(names, images, truth, strict=True)):
        for column, title in enumerate(columns):
            axes = grid[row, column]
            axes.imshow(image, cmap="gray", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(title)
            found = predicted[title][row] if column > 1 else lesion
            if column > 1:
                f1 = tversky(counts(found[None], lesion[None])[0])
                axes.set_xlabel(f"F1 {f1:.2f}, Hausdorff {hausdorff(found, lesion):.1f} pixels", fontsize=8)
            if column > 0:
                colour = "#E69F00" if column > 1 else "#009E73"
                axes.imshow(
                    np.ma.masked_equal(found, False), cmap=ListedColormap([colour]), alpha=0.5, interpolation="nearest"
                )
                if lesion.any():
                    axes.contour(lesion, levels=[0.5], colors="#009E73", linewidths=1.2)
        grid[row, 0].set_ylabel(name, fontsize=8)
        if not lesion.any():
            grid[row, 1].set_xlabel("no lesion", fontsize=8)
    figure.supxlabel("green: the lesion as it was marked; orange: what is predicted to be one", fontsize=9)
    return figure
