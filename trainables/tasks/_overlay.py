"""A figure of segmented slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainables.tasks._segmentation import counts, hausdorff, tversky

__all__ = ["draw_overlay"]


def draw_overlay(
    names: Sequence[str], channel: str, images: np.ndarray, truth: np.ndarray, predicted: Mapping[str, np.ndarray]
) -> Any:
    """Draw slices with the true lesion and the prediction of each network.

    Each slice has a row. The edge of the lesion is green, the prediction orange. Its F1 and Hausdorff distance stand
    below it.

    Args:
        names: Names of the n slices.
        channel: What the images show.
        images: (n, S, S), one channel.
        truth: bool (n, S, S), the true lesions.
        predicted: bool (n, S, S) by network.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.colors import ListedColormap  # lazy: only needed at the end of a trial
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
    figure.supxlabel("green: edge of the true lesion; orange: predicted lesion", fontsize=9)
    return figure
