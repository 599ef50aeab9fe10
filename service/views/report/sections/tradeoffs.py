"""What a method gives up to be pruned well."""

from service.views.report.blocks import Block, Plot
from service.views.report.drawing import Palette, panels, penalty_of
from service.views.report.view import SweepView

__all__ = ["tradeoffs"]


def tradeoffs(view: SweepView) -> list[Block]:
    figure, by_title = panels(["dense against pruned"], height=3.6)
    axes, palette = by_title["dense against pruned"], Palette(map(penalty_of, view.search))
    axes.set_title("")
    for penalty in palette.names:
        trials = [t for t in view.search if penalty_of(t) == penalty]
        found = [
            (t.at(0.0, view.objective, "curve", view.label), t.at(view.target, view.objective, "curve", view.label))
            for t in trials
        ]
        points = [(dense, pruned) for dense, pruned in found if dense is not None and pruned is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, linestyle="", markersize=4, alpha=0.7, label=penalty, **palette(penalty))
    axes.axline((0.5, 0.5), slope=1, color="0.6", linewidth=0.8)
    axes.set_xlabel(f"{view.objective} before pruning")
    axes.set_ylabel(f"{view.objective} at sparsity {view.target:g}")
    axes.legend(fontsize=8, frameon=False)
    caption = (
        f"{view.objective} on validation before pruning and at sparsity {view.target:g}, one mark per trial of the "
        "search, by regularizer. On the line, pruning costs nothing."
    )
    return [Plot("tradeoffs", figure, caption)]
