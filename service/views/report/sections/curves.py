"""The objective against sparsity, with every seed."""

from statistics import fmean

from service.statistics import interval_of_mean
from service.views.report.blocks import Block, Plot
from service.views.report.drawing import Palette, common_legend, panels
from service.views.report.view import SweepView

__all__ = ["curves"]


def curves(view: SweepView) -> list[Block]:
    optimizers = list(dict.fromkeys(method.optimizer for method in view.methods))
    figure, by_optimizer = panels(sorted(optimizers))
    palette = Palette(method.penalty for method in view.methods)
    places = range(len(view.levels))
    for method in view.methods:
        axes, style = by_optimizer[method.optimizer], palette(method.penalty)
        seeds = [list(method.values(level, view.label).values()) for level in view.levels]
        axes.plot(places, [fmean(values) for values in seeds], label=method.penalty, markersize=3, **style)
        bands = [interval_of_mean(values) for values in seeds]
        if all(bands):
            low, high = zip(*bands, strict=True)
            axes.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
        for place, values in zip(places, seeds, strict=True):
            axes.plot([place] * len(values), values, ".", color=style["color"], markersize=3, alpha=0.5)
    for axes in by_optimizer.values():
        axes.set_xticks(places, ["dense" if level == 0 else f"{level:g}" for level in view.levels])
    first = next(iter(by_optimizer.values()))
    common_legend(figure, by_optimizer.values())
    shown = [v for method in view.methods for level in view.levels for v in method.values(level, view.label).values()]
    margin = 0.05 * (max(shown) - min(shown)) + 1e-3
    first.set_ylim(min(shown) - margin, max(shown) + margin)  # intervals over few seeds reach beyond any value
    figure.supxlabel("sparsity (fraction of prunable weights removed; equally spaced)", fontsize=9)
    figure.supylabel(f"{view.objective} after pruning", fontsize=9)
    split = "test" if view.methods[0].split == "test" else "validation (search seeds)"
    caption = (
        f"{view.objective} on {split} after pruning by {view.label}, one panel per optimizer. Lines: mean over seeds. "
        "Bands: 95% t interval of the mean. Dots: single seeds."
    )
    return [Plot("curves", figure, caption)]
