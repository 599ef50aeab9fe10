"""Which hyperparameters explain the results of the search."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from service.records.state import TrialRecord
from service.views.optuna_study import quiet_optuna
from service.views.report.blocks import Block, Plot, Table, Text, cells
from service.views.report.drawing import Palette, common_legend, penalty_of
from service.views.report.view import SweepView
from trainables.config import HYPERPARAMETERS, hyperparameters

__all__ = ["fractions", "importance"]

MIN_TRIALS = 8  # fewer say nothing about three or four hyperparameters
NOT_USED = -0.08  # where lines pass a hyperparameter that their arm does not have


def importance(view: SweepView) -> list[Block]:
    by_arm: dict[str, list[TrialRecord]] = {}
    for trial in view.search:
        by_arm.setdefault(trial.arm, []).append(trial)
    rows = []
    for arm, trials in by_arm.items():
        values = [(searched(trial), view.state.goal.value(trial)) for trial in trials]
        points = [(given, value) for given, value in values if value is not None]
        if shares := fractions(points):
            texts = (f"{shares[name]:.2f}" if name in shares else "-" for name in HYPERPARAMETERS)
            rows.append(cells(arm, str(len(points)), *texts))
    blocks: list[Block] = []
    if rows:
        header = ["arm", "trials", *(name.replace("_", " ") for name in HYPERPARAMETERS)]
        caption = (
            "Share of the variance between trials that each hyperparameter explains (fANOVA, within the arm's search; "
            "uncertain with few trials)."
        )
        blocks.append(Table(caption, header, rows, folded=len(rows) > 12))
    else:
        blocks.append(Text(f"No arm has {MIN_TRIALS} trials that vary: too few to say which hyperparameters mattered."))
    if figure := parallel_coordinates(view):
        caption = (
            "Every trial of the search as a line through its hyperparameters, on logarithmic axes, to its "
            f"{view.objective} at sparsity {view.target:g} on validation. The best tenth is drawn thick."
        )
        blocks.append(Plot("parallel", figure, caption))
    return blocks


def searched(trial: TrialRecord) -> dict[str, float]:
    return {name: value for name, value in hyperparameters(trial.config).items() if value}


def fractions(points: Sequence[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    """The importance of each parameter that all points have and that varies; empty with too few points.

    Args:
        points: The hyperparameters of each trial, and its value.
    """
    shared = [name for name in HYPERPARAMETERS if all(name in given for given, _ in points)]
    names = [name for name in shared if len({given[name] for given, _ in points}) > 1]
    if len(points) < MIN_TRIALS or not names or len({value for _, value in points}) < 2:
        return {}
    columns = {name: [given[name] for given, _ in points] for name in names}
    ranges = {
        name: optuna.distributions.FloatDistribution(min(column), max(column), log=True)
        for name, column in columns.items()
    }
    with quiet_optuna():
        study = optuna.create_study(direction="maximize")
        for given, value in points:
            params = {name: given[name] for name in names}
            study.add_trial(optuna.create_trial(params=params, distributions=dict(ranges), value=value))
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def parallel_coordinates(view: SweepView) -> Figure | None:
    """None if nothing varies."""
    found = [(searched(t), t.at(view.target, view.objective, "curve", view.label), t) for t in view.search]
    points = [(given, score, penalty_of(trial)) for given, score, trial in found if score is not None]
    names = [name for name in HYPERPARAMETERS if len({given.get(name) for given, *_ in points} - {None}) > 1]
    if not names:
        return None
    scales = {name: Scale([math.log10(given[name]) for given, *_ in points if name in given]) for name in names}
    scores = Scale([score for _, score, _ in points])
    threshold = float(np.quantile([score for _, score, _ in points], 0.9))
    palette = Palette(penalty for *_, penalty in points)
    figure = Figure(figsize=(6.5, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for given, score, penalty in sorted(points, key=lambda point: point[1]):
        places = [scales[name].place(math.log10(given[name])) if name in given else NOT_USED for name in names]
        alpha, width = (0.9, 1.6) if score >= threshold else (0.25, 0.6)
        colour = palette(penalty)["color"]
        axes.plot(range(len(names) + 1), [*places, scores.place(score)], color=colour, alpha=alpha, linewidth=width)
    for penalty in palette.names:
        axes.plot([], [], color=palette(penalty)["color"], label=penalty)
    labels = [
        f"{name.replace('_', ' ')}\n{10 ** scales[name].low:.0e} to {10 ** scales[name].high:.0e}" for name in names
    ]
    labels.append(f"{view.objective}\n{scores.low:.3f} to {scores.high:.3f}")
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_yticks([NOT_USED, 0, 1], ["not used", "low", "high"], fontsize=8)
    axes.grid(alpha=0.4, axis="x")
    common_legend(figure, [axes])
    return figure


class Scale:
    """The place of a value between the lowest, 0, and the highest, 1."""

    def __init__(self, values: Sequence[float]):
        self.low, self.high = min(values), max(values)

    def place(self, value: float) -> float:
        return (value - self.low) / max(self.high - self.low, 1e-12)
