"""The objective against each searched hyperparameter, at each sparsity."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from service.records.state import TrialRecord
from service.views.report.blocks import Block, Plot
from service.views.report.drawing import common_legend, optimizer_of, panels, penalty_of, thin
from service.views.report.view import SweepView
from trainables.config import hyperparameters

__all__ = ["sensitivity"]


def ratio(values: Mapping[str, Any]) -> float | None:
    return values["lam"] / values["weight_decay"] if values["lam"] and values["weight_decay"] else None


AXES: dict[str, tuple[str, Callable[[Mapping[str, Any]], float | None]]] = {
    "lam": ("strength of the penalty, lam", lambda values: values["lam"]),
    "rho": ("radius of the perturbation, rho", lambda values: values["rho"]),
    "lr": ("learning rate", lambda values: values["lr"]),
    "weight_decay": ("weight decay", lambda values: values["weight_decay"]),
    "ratio": ("lam / weight decay", ratio),
}


def sensitivity(view: SweepView) -> list[Block]:
    blocks: list[Block] = []
    for name, (label, read) in AXES.items():
        points: dict[str, list[tuple[float, TrialRecord]]] = {}
        for trial in view.search:
            value = read(hyperparameters(trial.config))
            if value:  # a logarithmic axis has no 0
                points.setdefault(group(name, trial), []).append((value, trial))
        points = {title: found for title, found in points.items() if len({value for value, _ in found}) > 1}
        if points:
            per = "regularizer" if name in ("lam", "ratio") else "optimizer"
            caption = (
                f"{view.objective} on validation against {label}, one panel per {per}. A dot is a trial of the search, "
                "in which the other hyperparameters vary too. Lines: medians of the trials between two powers of "
                "sqrt(10). Darker: higher sparsity."
            )
            blocks.append(Plot(f"sensitivity-{name}", draw(view, points, label), caption))
    return blocks


def group(name: str, trial: TrialRecord) -> str:
    """The panel of a trial: what the hyperparameter belongs to."""
    if name in ("lam", "ratio"):
        return penalty_of(trial)
    return optimizer_of(trial)


def draw(view: SweepView, points: Mapping[str, list[tuple[float, TrialRecord]]], label: str) -> Figure:
    figure, by_title = panels(sorted(points), height=2.8)
    levels = thin(view.levels, 5)
    shades = matplotlib.colormaps["plasma_r"]
    for title, axes in by_title.items():
        for index, level in enumerate(levels):
            found = [(x, trial.at(level, view.objective, "curve", view.label)) for x, trial in points[title]]
            shade = shades(0.15 + 0.55 * index / max(1, len(levels) - 1))
            x, y = zip(*found, strict=True)
            name = "dense" if level == 0 else f"sparsity {level:g}"
            axes.plot(x, y, "o", markersize=2.5, color=shade, alpha=0.5, markeredgewidth=0)
            axes.plot(*medians(x, y), "-", color=shade, linewidth=1.8, label=name)
        axes.set_xscale("log")
    common_legend(figure, by_title.values())
    figure.supxlabel(label, fontsize=9)
    figure.supylabel(view.objective, fontsize=9)
    return figure


def medians(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """The median of y in each half decade of x, at the median of its x."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for point in zip(x, y, strict=True):
        bins.setdefault(math.floor(2 * math.log10(point[0])), []).append(point)
    found = [np.median(bins[index], axis=0).tolist() for index in sorted(bins)]
    return [point[0] for point in found], [point[1] for point in found]
