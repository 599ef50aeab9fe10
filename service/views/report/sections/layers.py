"""What pruning leaves in each layer, with and without the regularizer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from service.views.figures import COLOURS
from service.views.report.blocks import Block, Image, Plot, Table, Text, cells
from service.views.report.view import SweepView

__all__ = ["layers"]

NUM_IMAGES = 4


def layers(view: SweepView) -> list[Block]:
    """The layers of the winner, beside those of the best method without a regularizer (with one, if it has none)."""
    winner = view.summary["winner"]
    shown = {winner["arm"]: view.result(winner["checkpoint_trial"])}
    has_none = winner["regularizer"] == "none"
    if other := next((method for method in view.methods if (method.penalty == "none") != has_none), None):
        shown[other.name] = view.result(other.trials[0].key)
    found = {name: result["layers"] for name, result in shown.items() if result and result.get("layers")}
    if not found:
        return [Text("The folders of the trials are not here, so their layers cannot be shown.")]
    blocks: list[Block] = [
        Plot("layers", draw_kept(found), f"Fraction of each layer's weights that is kept at sparsity {view.target:g}."),
        Plot(
            "weights",
            draw_histogram(found),
            "Magnitudes of all prunable weights before pruning. A method is easy to prune if few weights lie between "
            "its two humps.",
        ),
        *(table(name, rows) for name, rows in found.items()),
    ]
    if emptied := [f"{name}: {row['name']}" for name, rows in found.items() for row in rows if not row["num_kept"]]:
        blocks.insert(0, Text(f"Layers that lose all of their weights: {'; '.join(emptied)}."))
    else:
        blocks.insert(0, Text("No layer loses all of its weights."))
    folder = view.state.trial_folder(winner["checkpoint_trial"]) / "figures"
    images = sorted(folder.glob("*.png"))[:NUM_IMAGES]
    return [*blocks, *(Image(path, f"{path.stem.replace('_', ' ')} (trial {folder.parent.name})") for path in images)]


def table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    body = [
        cells(
            row["name"],
            " x ".join(map(str, row["shape"])),
            f"{row['num_weights']:,}",
            f"{row['num_kept'] / row['num_weights']:.2%}",
            f"{row['energy_kept']:.2%}",
        )
        for row in rows
    ]
    header = ["layer", "shape", "weights", "kept", "energy kept"]
    caption = f"Layers of {name}. Energy: the share of the sum of squared weights."
    return Table(caption, header, body, num_labels=2, folded=True)


def draw_kept(found: dict[str, Sequence[dict[str, Any]]]) -> Figure:
    names = [row["name"] for row in next(iter(found.values()))]
    figure = Figure(figsize=(6.5, 1 + 0.2 * len(names) * len(found)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(found)
    for index, (name, rows) in enumerate(found.items()):
        kept = {row["name"]: row["num_kept"] / row["num_weights"] for row in rows}
        places = [place + (index - (len(found) - 1) / 2) * height for place in range(len(names))]
        values = [kept.get(layer, 0.0) for layer in names]
        axes.barh(places, values, height, color=COLOURS[index], label=name)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("fraction of weights kept")
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize=8, frameon=False)
    return figure


def draw_histogram(found: dict[str, Sequence[dict[str, Any]]]) -> Figure:
    figure = Figure(figsize=(6.5, 3), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, rows) in enumerate(found.items()):
        counts = np.sum([row["histogram"] for row in rows], axis=0)
        edges = np.linspace(-8, 2, len(counts) + 1)
        axes.stairs(counts / counts.sum(), edges, color=COLOURS[index], linewidth=1.5, label=name)
    axes.set_xlabel("log10 |w| before pruning")
    axes.set_ylabel("fraction of weights")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    return figure
