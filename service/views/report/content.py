"""The sections of a report, in their order."""

from collections.abc import Sequence

from service.records.state import State
from service.views.report.blocks import Block, Report, Section, Table, cells
from service.views.report.sections.budget import budget
from service.views.report.sections.cost import cost
from service.views.report.sections.curves import curves
from service.views.report.sections.headline import headline
from service.views.report.sections.importance import importance
from service.views.report.sections.layers import layers
from service.views.report.sections.methods import methods
from service.views.report.sections.origin import origin
from service.views.report.sections.sensitivity import sensitivity
from service.views.report.sections.tradeoffs import tradeoffs
from service.views.report.view import SweepView
from service.views.tables import headline as in_a_sentence

__all__ = ["make_report"]

SECTIONS = {
    "Result": headline,
    "Accuracy against sparsity": curves,
    "Methods compared": methods,
    "Sensitivity to the hyperparameters": sensitivity,
    "What pruning costs": tradeoffs,
    "Was the budget enough?": budget,
    "Layers": layers,
    "Which hyperparameters mattered": importance,
    "Time and trials": cost,
    "Failures, commands and versions": origin,
}


def make_report(states: Sequence[State]) -> Report:
    """The report of one or several sweeps.

    Args:
        states: The records, read with `State.read`.

    Raises:
        ValueError: If a sweep has no finished trial, or none of them is pruned to its target.
    """
    for state in states:
        finished = [*state.finished("search"), *state.finished("confirm")]
        if not finished:
            raise ValueError(f"report: {state.folder.name} must have a finished trial, got none so far")
        if all(state.goal.value(trial) is None for trial in finished):
            raise ValueError(
                f"report: {state.folder.name} must have a finished trial that is pruned to sparsity "
                f"{state.goal.target_sparsity:g}, got none of {len(finished)} so far (continue the sweep)"
            )
    views = [SweepView(state) for state in states]
    sections = [Section("Sweeps compared", "sweeps", [overview(views)], level=1)] if len(views) > 1 else []
    for view in views:
        if len(views) > 1:
            sections.append(Section(view.name, view.name, [], level=1))
        for title, make in SECTIONS.items():
            blocks: list[Block] = make(view)
            if blocks:
                sections.append(Section(title, f"{view.name}-{make.__name__}", blocks))
    return Report(f"Report: {', '.join(view.name for view in views)}", sections)


def overview(views: Sequence[SweepView]) -> Table:
    rows = [cells(view.name, view.subject, in_a_sentence(view.summary)) for view in views]
    return Table("The result of each sweep.", ["sweep", "network and data", "result"], rows, num_labels=3)
