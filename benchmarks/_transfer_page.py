"""The tables and the figure of docs/transfer.md, computed from the table of `benchmarks.transfer`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks._best_values import entry
from benchmarks._markdown import ALPHA, Comparison, comparison_table, paragraph, replace_section, table
from benchmarks._transfer_rules import (
    BY_LAM,
    PREDICTIONS,
    REFERENCES,
    RULES,
    Curve,
    bootstrap_interval,
    count_weights,
    decades_off,
    regrets,
)
from benchmarks.transfer import DEPTH, EPOCHS, LAMS, SEEDS, SETTINGS
from service.records.best import CLOSE
from service.statistics import holm, sign_flip_p
from service.views.figures import COLOURS
from service.views.tables import number

__all__ = ["best_entries", "comparisons", "draw", "section", "write"]

Curves = Mapping[str, Sequence[Curve]]
PREDICTION = "all others"  # the one whose differences are tested


def section(curves: Curves, figure: str) -> str:
    """The generated part of the page.

    Args:
        figure: File name of the figure, beside the page.
    """
    found = comparisons(curves)
    return "\n\n".join(
        [
            coverage(curves),
            "### Regret of each rule",
            paragraph(
                "Mean regret over settings, with a 95% bootstrap interval over settings. `all others`: lam is chosen "
                "on the results of all other settings. `one other`: lam is the best lam of a single other setting; the "
                "regret is averaged over the other settings. The rows in brackets are not rules: `own search` takes "
                "the best lam by validation in the setting itself, `middle of the range` ignores all results."
            ),
            regret_table(curves),
            f"![best lam of each setting, and the regret of each rule]({figure})",
            paragraph(
                "How far the lam that a rule predicts from one other setting is from the setting's own best lam, in "
                "decades: the median and the 90% quantile over all pairs of settings."
            ),
            decades_table(curves),
            "### Comparisons with an unchanged lam",
            paragraph(
                f"Paired differences of the regret (`{PREDICTION}`) over settings, with sign-flip permutation tests "
                f"and Holm's correction over these {len(found)} comparisons. A negative difference is in favour of "
                "the rule."
            ),
            comparison_table(found),
            conclusion(curves, found),
            "### The best lam of each setting",
            paragraph(
                "The target sparsity of a setting is the highest one at which some lam keeps at least 0.9 of the "
                "highest dense validation accuracy, and the lowest one if none does. `share` is the penalty share of "
                "the best lam, at the start and at the end. The last column is the range of accuracies over all values "
                "of lam."
            ),
            setting_table(curves),
        ]
    )


def coverage(curves: Curves) -> str:
    done = sum(len(curve.lams) * curve.num_seeds for own in curves.values() for curve in own)
    planned = len(SETTINGS) * len(SEEDS) * sum(map(len, LAMS.values()))
    parts = [
        f"{regularizer}: {len(own)} settings, {span([len(c.lams) for c in own])} values of lam, "
        f"{span([c.num_seeds for c in own])} seeds"
        for regularizer, own in curves.items()
    ]
    progress = "" if done >= planned else f"**Not complete:** {done} of {planned} trainings. "
    return paragraph(f"{progress}{'; '.join(parts)}.")


def span(counts: Sequence[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def regret_table(curves: Curves) -> str:
    columns = [(regularizer, prediction) for regularizer in curves for prediction in PREDICTIONS]
    header = ["rule", *(f"{regularizer}, {prediction}" for regularizer, prediction in columns)]
    rows = []
    for rule in (*RULES, *REFERENCES):
        cells = []
        for regularizer, prediction in columns:
            values = list(regrets(curves[regularizer], rule, prediction).values())
            low, high = bootstrap_interval(values)
            cells.append(f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]")
        rows.append([rule, *cells])
    return table(header, rows)


def decades_table(curves: Curves) -> str:
    rows = []
    for rule in RULES:
        quantiles = [np.quantile(decades_off(own, rule), [0.5, 0.9]) for own in curves.values()]
        rows.append([rule, *(f"{median:.2f}, {high:.2f}" for median, high in quantiles)])
    return table(["rule", *curves], rows)


def comparisons(curves: Curves) -> list[Comparison]:
    """Every rule against an unchanged lam: a name, and both regrets by setting."""
    return [
        (f"{regularizer}: ({rule}) - ({BY_LAM})", regrets(own, rule, PREDICTION), regrets(own, BY_LAM, PREDICTION))
        for regularizer, own in curves.items()
        for rule in RULES
        if rule != BY_LAM
    ]


def conclusion(curves: Curves, found: Sequence[Comparison]) -> str:
    """Which rule has the least regret, and whether its difference from an unchanged lam is significant."""
    differences = [np.array([ours[key] - theirs[key] for key in ours]) for _, ours, theirs in found]
    corrected = holm([sign_flip_p(difference) for difference in differences])
    p_of = {name: p for (name, *_), p in zip(found, corrected, strict=True)}
    lines = []
    for regularizer, own in curves.items():
        means = {rule: float(np.mean(list(regrets(own, rule, PREDICTION).values()))) for rule in RULES}
        best = min(means, key=means.__getitem__)
        if best == BY_LAM:
            text = f"an unchanged lam has the least regret ({means[BY_LAM]:.3f})"
        else:
            p = p_of[f"{regularizer}: ({best}) - ({BY_LAM})"]
            verdict = "is significant" if p < ALPHA else "is not significant"
            text = (
                f"`{best}` has the least regret ({means[best]:.3f}; unchanged lam {means[BY_LAM]:.3f}), and the "
                f"difference {verdict} (p after Holm's correction: {p:.2g})"
            )
        lines.append(f"- **{regularizer}**: {text}.")
    return "\n".join(lines)


def setting_table(curves: Curves) -> str:
    header = ["regularizer", "width", "weight decay", "lr", "target", "best lam", "share, start", "share, end"]
    rows = []
    for regularizer, own in curves.items():
        for curve in own:
            best = int(curve.validation.argmax())
            setting = [str(curve.setting.width), number(curve.setting.weight_decay), number(curve.setting.lr)]
            shares = [f"{values[best]:.2g}" for values in (curve.share_start, curve.share_end)]
            low, high = curve.test.min(), curve.test.max()
            found = [f"{curve.target:g}", number(float(curve.lams[best])), *shares, f"{low:.3f} to {high:.3f}"]
            rows.append([regularizer, *setting, *found])
    return table([*header, "test accuracy"], rows)


def draw(curves: Curves) -> Figure:
    """A row for each regularizer: the best lam against the weight decay, and the regret of each rule."""
    figure = Figure(figsize=(12, 4.2 * len(curves)), layout="constrained")
    grid = figure.subplots(len(curves), 2, squeeze=False, width_ratios=(1, 1.15))
    for (left, right), (regularizer, own) in zip(grid, curves.items(), strict=True):
        draw_best_lams(left, regularizer, own)
        draw_regrets(right, regularizer, own)
    return figure


def draw_best_lams(axes: Any, regularizer: str, own: Sequence[Curve]) -> None:
    """A line for each width and lr. Widths have colours; the lower lr is dashed."""
    widths = sorted({curve.setting.width for curve in own})
    rates = sorted({curve.setting.lr for curve in own})
    for colour, width in zip(COLOURS, widths, strict=False):
        for style, lr in zip(("--", "-", ":"), rates, strict=False):
            points = [c for c in own if (c.setting.width, c.setting.lr) == (width, lr)]
            decays = [c.setting.weight_decay for c in points]
            best = [c.lams[int(c.validation.argmax())] for c in points]
            axes.plot(decays, best, style, marker="o", color=colour, label=f"width {width}, lr {lr:g}")
    axes.set(xscale="log", yscale="log", xlabel="weight decay", ylabel="best lam by validation", title=regularizer)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, handlelength=4)


def draw_regrets(axes: Any, regularizer: str, own: Sequence[Curve]) -> None:
    """The mean and its interval for each rule, over a dot for each setting."""
    names = [*RULES, *REFERENCES]
    for place, name in enumerate(reversed(names)):
        values = list(regrets(own, name, PREDICTION).values())
        low, high = bootstrap_interval(values)
        axes.plot(values, [place - 0.2] * len(values), "o", color="#999999", alpha=0.5, markersize=3)
        axes.plot([low, high], [place] * 2, color=COLOURS[0], linewidth=2)
        axes.plot(np.mean(values), place, "o", color=COLOURS[0])
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set(xlabel=f"regret ({PREDICTION}): mean, 95% interval, settings in grey", title=regularizer)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, axis="x")


# ---- values to reuse ------------------------------------------------------------------------------------------------


def best_entries(curves: Curves) -> str:
    """The best lam of each setting as entries of search_spaces/best.toml."""
    return "\n\n".join(best_entry(regularizer, curve) for regularizer, own in curves.items() for curve in own)


def best_entry(regularizer: str, curve: Curve) -> str:
    """The lam that is best by validation, those about as good, and its accuracy on the test split."""
    best = int(curve.validation.argmax())
    close = curve.lams[curve.validation >= curve.validation[best] - CLOSE]
    width, weight_decay, lr = curve.setting
    fields: dict[str, Any] = {
        "source": "docs/transfer.md",
        "dataset": "digits",
        "architecture": "small_resnet",
        "model": {"width": width, "depth": DEPTH},
        "optimizer": "sgd",
        "regularizer": regularizer,
        "lam": float(curve.lams[best]),
        "lam_range": [float(close[0]), float(close[-1])],
        "lr": lr,
        "weight_decay": weight_decay,
        "max_epochs": EPOCHS,
        "target_sparsity": curve.target,
        "num_prunable": count_weights(width, min_ndim=4),
        "value": round(float(curve.test[best]), 4),
        "n": curve.num_seeds,
    }
    return entry(fields)


def write(curves: Curves, page: Path, start: str, end: str) -> None:
    """Replace what stands between the page's markers, and draw the figure beside the page."""
    figure = page.with_suffix(".png")
    replace_section(page, start, end, section(curves, figure.name))
    draw(curves).savefig(figure, dpi=110)
