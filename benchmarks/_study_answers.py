"""What all networks of the study on CIFAR-10 say about each question, as tables and as one figure."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks._markdown import ALPHA, compared, table
from benchmarks._study import Arm, Found
from service.views.figures import COLOURS

__all__ = ["answers", "draw_answers"]

Pair = tuple[Arm, Arm]
MARKERS = "osDv^"  # of the networks
SPACING = 0.35  # of the symbols in a row of the figure; a line of text is 1


def answers(founds: Mapping[str, Found]) -> str:
    """A table for each question: the comparisons, and what each network says about them.

    Args:
        founds: Title -> the results of a network. The first asks every question; a comparison belongs to the question
            that it has there.
    """
    founds = with_results(founds)
    if not founds:
        return "Nothing has run yet."
    differences = {title: differences_of(found) for title, found in founds.items()}
    parts = []
    for question, planned in questions_of(founds).items():
        rows = [[shortened(pair)] + [cell(differences[title], pair) for title in founds] for pair in planned]
        parts += [f"{question}:", table(["comparison", *founds], rows)]
    return "\n\n".join(parts)


def draw_answers(founds: Mapping[str, Found]) -> Figure | None:
    """A panel for each question with the paired differences and their intervals; None without results.

    A symbol is filled if the corrected test is significant. The grey band is what counts as no difference.

    Args:
        founds: As for `answers`.
    """
    founds = with_results(founds)
    if not founds:
        return None
    differences = {title: differences_of(found) for title, found in founds.items()}
    questions = questions_of(founds)
    heights = {
        question: 2 + sum(row_height(len(differences_in(differences, pair))) for pair in planned)
        for question, planned in questions.items()
    }
    columns = in_columns(heights, 2)
    height = max(sum(heights[question] for question in column) for column in columns)
    figure = Figure(figsize=(6.5 * len(columns), 0.2 * height + 0.9), layout="constrained")
    panels = figure.subplots(1, len(columns), sharex=True, sharey=False, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        draw_column(axes, {question: questions[question] for question in column}, differences)
        axes.set_ylim(height - 1, -1)
        margin = next(iter(founds.values())).study.margin or 0.0
        axes.axvspan(-margin, margin, color="0.88", linewidth=0, zorder=0)
        axes.axvline(0, color="0.4", linewidth=0.8, zorder=1)
    symbols = [
        panels[0].plot([], [], MARKERS[index], color=COLOURS[index], label=title)[0]
        for index, title in enumerate(founds)
    ]
    figure.legend(handles=symbols, loc="outside upper center", ncols=len(symbols), fontsize=9)
    target = next(iter(founds.values())).target
    figure.supxlabel(f"paired difference of test accuracy at sparsity {target:g}, with 95% interval", fontsize=9)
    return figure


def draw_column(
    axes: Any,
    questions: Mapping[str, list[Pair]],
    differences: Mapping[str, Mapping[Pair, Mapping[str, Any] | None]],
) -> None:
    """Questions below each other, a row for each of their comparisons, in it the networks that have it."""
    labels: dict[float, str] = {}
    place = 0.0  # the middle of a question's line, or the upper edge of a row
    for question, planned in questions.items():
        labels[place] = question
        place += 0.5
        for pair in planned:
            found = differences_in(differences, pair)
            height = row_height(len(found))
            labels[place + height / 2] = shortened(pair)
            for position, (index, row) in enumerate(found.items()):
                shift = SPACING * (position - (len(found) - 1) / 2)
                draw_difference(axes, row, place + height / 2 + shift, COLOURS[index], MARKERS[index])
            place += height
        place += 1.5
    axes.set_yticks(list(labels), list(labels.values()), fontsize=8)
    for label in axes.get_yticklabels():
        if label.get_text() in questions:
            label.set(weight="bold", size=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["left", "right", "top"]].set_visible(False)


def differences_in(
    differences: Mapping[str, Mapping[Pair, Mapping[str, Any] | None]], pair: Pair
) -> dict[int, Mapping[str, Any]]:
    """Index of each network that has this comparison -> its row."""
    rows = {index: of_network.get(pair) for index, of_network in enumerate(differences.values())}
    return {index: row for index, row in rows.items() if row}


def row_height(num_symbols: int) -> float:
    """So much that the symbols of two rows are farther apart than those of one; a line of text is 1."""
    return max(1.0, SPACING * (num_symbols + 1.5))


def draw_difference(axes: Any, row: Mapping[str, Any], place: float, colour: str, marker: str) -> None:
    low, high = row["interval"] or (row["difference"],) * 2
    axes.plot([low, high], [place, place], color=colour, linewidth=1.2, zorder=2)
    face = colour if row["corrected"] < ALPHA else "white"
    axes.plot(row["difference"], place, marker, color=colour, markerfacecolor=face, markersize=4.5, zorder=3)


def with_results(founds: Mapping[str, Found]) -> dict[str, Found]:
    return {title: found for title, found in founds.items() if found.arms}


def questions_of(founds: Mapping[str, Found]) -> dict[str, list[Pair]]:
    planned = next(iter(founds.values())).study.planned
    return {question: list(pairs) for question, pairs in planned.items()}


def shortened(pair: Pair) -> str:
    """What both arms have in common, then what they differ in: "sam: wcr against none"."""
    (optimizer, regularizer), (other, without) = pair
    if optimizer == other:
        return f"{optimizer}: {regularizer} against {without}"
    assert regularizer == without, pair
    return f"{optimizer} against {other}"


def differences_of(found: Found) -> dict[Pair, dict[str, Any] | None]:
    """What `compared` finds for each planned comparison; Holm's correction by question."""
    return {
        pair: row
        for planned in found.study.planned.values()
        for pair, row in zip(
            planned,
            compared(found.comparisons(planned), verdicts=("better", "worse"), margin=found.study.margin),
            strict=True,
        )
    }


def cell(differences: Mapping[Pair, Mapping[str, Any] | None], pair: Pair) -> str:
    """The difference and the verdict; `-` without data, empty if it is not planned."""
    if pair not in differences:
        return ""
    row = differences[pair]
    return "-" if row is None else f"{row['difference']:+.3f}, {'open' if row['verdict'] == 'no' else row['verdict']}"


def in_columns(heights: Mapping[str, int], number: int) -> list[list[str]]:
    """Names in columns of similar heights, in their order as far as that allows; columns without a name are left out.

    The highest are placed first, each in the column that is lowest so far.
    """
    columns: list[list[str]] = [[] for _ in range(number)]
    for name in sorted(heights, key=lambda name: -heights[name]):
        min(columns, key=lambda column: sum(heights[each] for each in column)).append(name)
    order = list(heights)
    return sorted((sorted(column, key=order.index) for column in columns if column), key=lambda c: order.index(c[0]))
