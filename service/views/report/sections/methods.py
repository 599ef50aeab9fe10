"""The table of methods by sparsity, with tests."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from service.statistics import MIN_SEEDS, holm, interval_of_mean, sign_flip_p
from service.views import tables
from service.views.report.blocks import Block, Cell, Table, Text, cells
from service.views.report.view import SweepView

__all__ = ["methods", "significantly_best"]


def methods(view: SweepView) -> list[Block]:
    """Each method at each sparsity. Bold if it is significantly better than every other method of the table."""
    blocks: list[Block] = []
    best = {level: significantly_best([m.values(level, view.label) for m in view.methods]) for level in view.levels}
    rows = [
        [
            *cells(method.name, str(len(method.trials))),
            *(
                Cell(with_interval(method.values(level, view.label)), bold=best[level] == index)
                for level in view.levels
            ),
        ]
        for index, method in enumerate(view.methods)
    ]
    seeds = [len(method.trials) for method in view.methods]
    num = f"n = {seeds[0]} seeds" if len(set(seeds)) == 1 else f"n = {min(seeds)} to {max(seeds)} seeds"
    split = "test" if view.methods[0].split == "test" else "validation, search seeds"
    header = ["method", "n"]
    header += [tables.level_title(view.summary, f"{level:g}") for level in view.levels]
    caption = f"{view.objective} after pruning by {view.label} ({split}): mean and 95% t interval over {num}."
    blocks += [Table(caption, header, rows), Text(says(view, best)), configurations(view)]
    for table in (tables.comparison_table(view.summary), tables.methods_table(view.summary)):
        if table.rows:
            rows = [cells(*row) for row in table.rows]
            blocks.append(Table(table.title + ".", table.header, rows, folded=len(rows) > 12))
    return blocks


def configurations(view: SweepView) -> Table:
    """The hyperparameters of each method."""
    names = tables.searched_names(view.summary)
    selected = view.summary["confirmed"] or view.summary["arms"]
    rows = [
        cells(method.name, *(tables.number(row[name]) for name in names))
        for method, row in zip(view.methods, selected, strict=True)
    ]
    header = ["method", *(name.replace("_", " ") for name in names)]
    return Table("The configuration of each method, selected on validation.", header, rows, folded=len(rows) > 12)


def with_interval(values: dict[int, float]) -> str:
    mean, ends = fmean(values.values()), interval_of_mean(list(values.values()))
    return f"{mean:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def significantly_best(values: Sequence[dict[int, float]], alpha: float = 0.05) -> int | None:
    """The index of the method that is significantly better than every other one, or None.

    The method with the highest mean is compared with each other method by the sign-flip test over their common seeds.
    All p-values, corrected by Holm's method, must be below alpha.

    Args:
        values: The values of each method by seed.
    """
    if len(values) < 2:
        return None
    best = max(range(len(values)), key=lambda index: fmean(values[index].values()))
    differences = [
        np.array([values[best][seed] - other[seed] for seed in sorted(values[best].keys() & other.keys())])
        for index, other in enumerate(values)
        if index != best
    ]
    if min(map(len, differences)) < MIN_SEEDS:
        return None
    return best if max(holm([sign_flip_p(each) for each in differences])) < alpha else None


def says(view: SweepView, best: dict[float, int | None]) -> str:
    """What the bold cells mean, or why there are none."""
    fewest = min(len(method.trials) for method in view.methods)
    if len(view.methods) < 2:
        return "There is only one method, so there is nothing to compare."
    if view.methods[0].split != "test":
        return "These values selected the configurations, so they are too high and no test is made."
    if fewest < MIN_SEEDS:
        return (
            f"Nothing can be said about which method is better: with fewer than {MIN_SEEDS} paired seeds no test can "
            f"reach p < 0.05, and here n = {fewest}."
        )
    tested = (
        f"sign-flip tests over paired seeds against all {len(view.methods) - 1} others, corrected by Holm's method "
        "within each sparsity, p < 0.05"
    )
    if all(index is None for index in best.values()):
        return f"No cell is bold: at no sparsity is one method significantly better than every other one ({tested})."
    return f"Bold: significantly better than every other method at that sparsity ({tested})."
