"""Figures of trials and sweeps, made without pyplot because they are drawn in a background thread."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sparsity.import_strings import short_name

__all__ = [
    "COLOURS",
    "draw_curve",
    "draw_summary",
    "draw_trial",
    "draw_weights",
    "label_levels",
    "sparsity_axes",
    "split_arm",
]

# The palette of Okabe & Ito, which colour-blind people can distinguish. A colour stands for a regularizer, a dash
# pattern for an optimizer.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)))


def sparsity_axes(figure: Figure, objective: str) -> Any:
    """Axes for a metric after pruning against sparsity.

    The horizontal axis is the density on a logarithmic scale, which gives high sparsities more room; `label_levels`
    labels it by sparsity.

    Args:
        figure: The figure or subfigure to draw in.
        objective: The name of the metric.
    """
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel("sparsity (fraction of prunable weights removed)")
    axes.set_ylabel(f"{objective} after one-shot pruning")
    axes.grid(alpha=0.3)
    return axes


def label_levels(axes: Any, levels: Sequence[float]) -> None:
    """Label the axes of `sparsity_axes` at these sparsities."""
    densities = [1 - level for level in levels]
    axes.set_xticks(densities, minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda density, _: f"{1 - density:g}"))
    axes.set_ylim(bottom=0)


def title_of(config: Mapping[str, Any]) -> str:
    """A trial's network, data, arm, rho and lam in one line."""
    names = {name: short_name(config[name]) for name in ("architecture", "dataset", "optimizer", "regularizer")}
    parts = [f"{names['architecture']} on {names['dataset']}: {names['optimizer']}"]
    if "rho" in config["opt"]:
        parts.append(f"rho {config['opt']['rho']:.3g}")
    parts.append(f"+ {names['regularizer']}")
    if config["regularizer"] != "none":
        parts.append(f"lam {config['lam']:.3g}")
    return " ".join(parts)


def draw_trial(result: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a finished trial by file name.

    Args:
        result: The content of the trial's result.json.
    """
    config, first = result["config"], result["pruned"][0]
    return {
        "curve.png": draw_curve(first["curve"], first["test"], config, objective=result["objective"]),
        "weights.png": draw_weights(result["layers"], config),
    }


def draw_curve(
    curve: Sequence[Mapping], test: Sequence[Mapping] | None, config: Mapping[str, Any], *, objective: str
) -> Figure:
    """A trial's objective against sparsity.

    Args:
        curve: Validation metrics by sparsity.
        test: Test metrics by sparsity, if the test split was read.
        config: The trial's configuration.
        objective: The metric to draw.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = sparsity_axes(figure, objective)
    for rows, name, style in ((curve, "validation", "o-"), (test, "test", "s--")):
        if rows:
            axes.plot([1 - row["sparsity"] for row in rows], [row[objective] for row in rows], style, label=name)
    label_levels(axes, [row["sparsity"] for row in curve])
    axes.set_title(title_of(config), fontsize=10)
    axes.legend()
    return figure


def draw_weights(layers: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Figure:
    """Histograms of log10|w| before pruning, one row for each prunable tensor.

    A white mark shows up to which magnitude a tensor's weights would be pruned by magnitude at the target sparsity.

    Args:
        layers: For each tensor its name, num_weights, num_kept at the target sparsity, and histogram: counts of
            log10|w| in equal bins from -8 to 2.
        config: The trial's configuration.
    """
    counts = np.array([layer["histogram"] for layer in layers], float)
    density = counts / counts.sum(1, keepdims=True)
    edges = np.linspace(-8, 2, counts.shape[1] + 1)
    figure = Figure(figsize=(7, 1.8 + 0.22 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        density,
        aspect="auto",
        cmap="viridis",
        extent=(edges[0], edges[-1], len(layers) - 0.5, -0.5),
        interpolation="none",
    )
    for row, layer in enumerate(layers):
        pruned = 1 - layer["num_kept"] / layer["num_weights"]
        cut = edges[min(int(np.searchsorted(np.cumsum(density[row]), pruned)), len(edges) - 2) + 1]
        axes.plot([cut, cut], [row - 0.4, row + 0.4], color="white", linewidth=2)
    labels = [f"{layer['name']}  ({layer['num_kept'] / layer['num_weights']:.1%} kept)" for layer in layers]
    axes.set_yticks(range(len(layers)), labels, fontsize=8)
    axes.set_xlabel("log10 |w| before pruning (white: weights left of the mark are pruned)")
    axes.set_title(f"{title_of(config)}, at sparsity {config['target_sparsity']:g}", fontsize=10)
    figure.colorbar(image, label="fraction of the layer's weights")
    return figure


def draw_summary(summary: Mapping[str, Any]) -> Figure:
    """The best configuration of each arm against sparsity, with a panel for each pruning method.

    Confirmed configurations show the test split with the standard deviation over seeds; the others, faintly if there
    are confirmed ones, the validation split of the search.

    Args:
        summary: See `service.records.summary`.
    """
    labels = list(summary["levels"]) or [summary["method"]]
    num_columns = min(2, len(labels))
    num_rows = math.ceil(len(labels) / num_columns)
    figure = Figure(figsize=(8, 5) if len(labels) == 1 else (13, 4.5 * num_rows), layout="constrained")
    panels = figure.subfigures(num_rows, num_columns, squeeze=False).flat
    for label, panel in zip(labels, panels, strict=False):  # the last row may have an empty place
        draw_method(panel, summary, label)
    figure.suptitle(f"{summary['sweep']}: {summary['objective']} after pruning")
    return figure


def draw_method(panel: Any, summary: Mapping[str, Any], method: str) -> None:
    """Draw the arms of a summary pruned by one method into a figure or subfigure."""
    axes = sparsity_axes(panel, summary["objective"])
    levels = [float(level) for level in summary["levels"].get(method, ())]
    rows = [*summary["arms"], *summary["confirmed"]]
    optimizers = list(dict.fromkeys(row["optimizer"] for row in rows))
    penalties = list(dict.fromkeys(penalty(row) for row in rows))

    def style(row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "color": COLOURS[penalties.index(penalty(row)) % len(COLOURS)],
            "linestyle": DASHES[optimizers.index(row["optimizer"]) % len(DASHES)],
        }

    def cells_of(row: Mapping[str, Any], split: str) -> list[Mapping[str, Any]]:
        return list((row if method == summary["method"] else row["others"][method])[split].values())

    densities = [1 - level for level in levels]
    confirmed_arms = {row["arm"] for row in summary["confirmed"]}
    for row in summary["arms"]:
        faint = 0.35 if summary["confirmed"] else 1.0
        label = None if row["arm"] in confirmed_arms else f"{row['arm']} (validation, search)"
        if label or not summary["confirmed"]:
            values = [cell["value"] for cell in cells_of(row, "curve")]
            axes.plot(densities, values, alpha=faint, marker=".", label=label, **style(row))
    seen: set[str] = set()
    for row in summary["confirmed"]:
        cells = cells_of(row, "test")
        label = f"{row['arm']} (test, {cells[0]['n']} seeds)" if row["arm"] not in seen else None
        seen.add(row["arm"])
        spread = [cell["spread"] or 0.0 for cell in cells]
        axes.errorbar(
            densities, [cell["value"] for cell in cells], spread, marker="o", capsize=3, label=label, **style(row)
        )
    label_levels(axes, levels)
    if len(summary["levels"]) > 1:
        axes.set_title(f"pruned by {method}")
    axes.legend(fontsize=8)


def penalty(row: Mapping[str, Any]) -> str:
    """The arm without its optimizer."""
    return split_arm(row["arm"])[1]


def split_arm(arm: str) -> tuple[str, str]:
    """The names of an arm's optimizer and regularizer, as tables and figures show them."""
    optimizer, _, regularizer = arm.partition(" + ")
    return optimizer, regularizer
