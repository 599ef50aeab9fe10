"""What a method gives up to be pruned well, and what pruning saves."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from service.records.state import TrialRecord
from service.views.report.blocks import Block, Plot
from service.views.report.drawing import Palette, panels, penalty_of
from service.views.report.view import SweepView

__all__ = ["tradeoffs"]


def tradeoffs(view: SweepView) -> list[Block]:
    pruned, sparsity = f"{view.objective} at sparsity {view.target:g}", f"at sparsity {view.target:g}"

    def dense(trial: TrialRecord) -> float | None:
        return trial.at(0.0, view.objective, "curve", view.label)

    def macs_left(trial: TrialRecord) -> float | None:
        rows = [row for row in trial.rows(view.label) if row["sparsity"] == view.target]
        return rows[0].get("macs_left") if rows else None

    figure, axes = scatter(view, dense, f"{view.objective} before pruning", pruned)
    axes.axline((0.5, 0.5), slope=1, color="0.6", linewidth=0.8)
    caption = (
        f"{view.objective} on validation before pruning and {sparsity}, one mark per trial of the search, by "
        "regularizer. On the line, pruning costs nothing."
    )
    blocks: list[Block] = [Plot("tradeoffs", figure, caption)]
    if any(macs_left(trial) is not None for trial in view.search):
        figure, _ = scatter(view, macs_left, "multiply-accumulate operations left after shrinking", pruned)
        caption = (
            f"{view.objective} on validation {sparsity}, against the fraction of the dense network's operations that "
            "is left when every channel that nothing reads is removed. Left and up is better."
        )
        blocks.append(Plot("macs", figure, caption))
    return blocks


def scatter(
    view: SweepView, read: Callable[[TrialRecord], float | None], xlabel: str, ylabel: str
) -> tuple[Figure, Any]:
    """A mark for each trial of the search: what `read` returns, and the objective at the target sparsity."""
    figure, by_title = panels([""], height=3.6)
    axes, palette = by_title[""], Palette(map(penalty_of, view.search))
    for penalty in palette.names:
        points = points_of([t for t in view.search if penalty_of(t) == penalty], view, read)
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, linestyle="", markersize=4, alpha=0.7, label=penalty, **palette(penalty))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend(fontsize=8, frameon=False)
    return figure, axes


def points_of(
    trials: Sequence[TrialRecord], view: SweepView, read: Callable[[TrialRecord], float | None]
) -> list[tuple[float, float]]:
    found = [(read(trial), trial.at(view.target, view.objective, "curve", view.label)) for trial in trials]
    return [(x, y) for x, y in found if x is not None and y is not None]
