"""How the figures of a report look: one panel per optimizer, one colour per regularizer."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure

from service.records.state import TrialRecord
from service.views.figures import COLOURS, split_arm

__all__ = ["Palette", "common_legend", "optimizer_of", "panels", "penalty_of", "thin"]

BLACK = "#000000"  # the page draws it in its text colour
HUES = [colour for colour in COLOURS if colour not in (BLACK, "#F0E442")]  # yellow is too faint on white


class Palette:
    """A colour and a marker for each regularizer, the same in all figures."""

    MARKERS = "sD^vP*X"

    def __init__(self, penalties: Iterable[str]):
        self.names = sorted(set(penalties), key=lambda name: (name != "none", name))
        others = [name for name in self.names if name != "none"]
        self._styles: dict[str, dict[str, Any]] = {"none": {"color": BLACK, "marker": "o"}}
        for index, name in enumerate(others):
            colour = HUES[index % len(HUES)]
            self._styles[name] = {"color": colour, "marker": self.MARKERS[index % len(self.MARKERS)]}

    def __call__(self, penalty: str) -> dict[str, Any]:
        return self._styles[penalty]


def panels(titles: Sequence[str], *, height: float = 3.2) -> tuple[Figure, dict[str, Any]]:
    """A figure with one panel per title, three in a row, with common axes."""
    num_columns = min(3, len(titles))
    num_rows = math.ceil(len(titles) / num_columns)
    width = 6.5 if num_columns == 1 else 3.4 * num_columns
    figure = Figure(figsize=(width, height * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    found = {}
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.tick_params(labelbottom=True)
        found[title] = axes
    for axes in list(grid.flat)[len(titles) :]:
        axes.remove()
    return figure, found


def common_legend(figure: Figure, axes: Iterable[Any]) -> None:
    """One legend above all panels, so that it covers no point, in the order of the axes' first lines."""
    handles: dict[str, Any] = {}
    for each in axes:
        found, labels = each.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    names = sorted(handles, key=lambda name: name != "none")
    columns = min(6, len(names))
    style: dict[str, Any] = {"loc": "outside upper center", "fontsize": 8, "frameon": False}
    figure.legend([handles[name] for name in names], names, ncols=columns, **style)


def optimizer_of(trial: TrialRecord) -> str:
    return split_arm(trial.arm)[0]


def penalty_of(trial: TrialRecord) -> str:
    return split_arm(trial.arm)[1]


def thin(levels: Sequence[float], most: int = 6) -> list[float]:
    """At most `most` of the sparsities, with both ends, so that labels do not overlap."""
    if len(levels) <= most:
        return list(levels)
    step = (len(levels) - 1) / (most - 1)
    return [levels[round(index * step)] for index in range(most)]
