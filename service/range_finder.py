"""`sweeps range`: the values of lam between which a penalty matters for a network that nobody has trained yet.

Short trainings, one for each lam over many decades, start from the same weights and see the same batches. They measure
the penalty share (lam |dR/dw| / |dL/dw|) and the loss of the task after training. The range begins where the penalty
starts to move weights, and ends where it starts to hurt.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from service.views.figures import COLOURS
from sparsity.import_strings import short_name
from trainables.config import TrialConfig
from trainables.files import write_atomically
from trainables.loop import Diverged, Training
from trainables.penalty_ratio import PENALTY_RATIO_LIMIT
from trainables.task import Task

__all__ = ["Found", "Point", "draw", "find_range", "measure", "write_range"]

MOVES = 0.01  # a penalty share, and a relative difference of the weights' norm, from which on the penalty has an effect
HURTS = 0.1  # a relative increase of the task's loss, from which on the penalty hurts


class Point(BaseModel):
    """What a short training with one lam did.

    Args:
        share: The penalty share, the larger of those at the start and at the end; None without a penalty.
        loss: The task's mean loss in the last epoch; None if the training diverged.
        norm: L2 norm of the regularized weights after training; None if the training diverged.
    """

    model_config = ConfigDict(extra="forbid")

    lam: Annotated[float, Field(ge=0)]
    share: float | None
    loss: float | None
    norm: float | None


class Found(BaseModel):
    """A range of lam: from where the penalty starts to move weights to where it starts to hurt.

    Args:
        regularizer: What the range is for.
        points: What was measured, ordered by lam, without the training without a penalty.
        notes: What casts doubt on the range; without notes, both of its ends were measured.
    """

    model_config = ConfigDict(extra="forbid")

    regularizer: str
    architecture: str
    dataset: str
    optimizer: str
    max_epochs: int
    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]
    baseline: Point
    points: list[Point]
    notes: list[str] = []


def measure(
    task: Task, config: TrialConfig, lams: Sequence[float], say: Callable[[str], Any] = lambda _: None
) -> tuple[Point, list[Point]]:
    """Train once without a penalty and once for each lam.

    Args:
        config: The configuration of the trainings, of which lam is replaced.
        say: Called with a line for each training.

    Returns:
        The training without a penalty, and the others.
    """
    found = []
    for lam in (0.0, *sorted(lams)):
        found.append(train(task, config.model_copy(update={"lam": lam})))
        say(describe(found[-1]))
    return found[0], found[1:]


def train(task: Task, config: TrialConfig) -> Point:
    training = Training(task, config)
    terms: dict[str, Any] = {}
    try:
        while not training.finished:
            terms = training.train_to_evaluation(evaluate=False)
    except Diverged:
        terms = {}
    shares = [v for name, v in training.penalty_ratio.describe().items() if name.startswith("penalty_share")]
    weights = list(task.regularized(training.model).values())
    norm = float(torch.nn.utils.get_total_norm([weight.detach() for weight in weights])) if terms else None
    return Point(lam=config.lam, share=max(shares, default=None), loss=terms.get("loss"), norm=norm)


def describe(point: Point) -> str:
    if point.loss is None:
        return f"lam {point.lam:g}: diverged"
    share = "" if point.share is None else f", penalty share {point.share:.2g}"
    return f"lam {point.lam:g}: loss {point.loss:.3f}, norm of the weights {point.norm:.3g}{share}"


def find_range(config: TrialConfig, baseline: Point, points: Sequence[Point]) -> Found:
    """The range from the measured points.

    `low` is the smallest lam that moves weights: its share is above 1%, or the norm of the weights differs by more than
    1%. `high` is the largest lam below the first one that hurts: its loss is more than 10% above that without a
    penalty, its share is above 10, or it diverged. The end of the measured values stands for an end that was not found.
    If the first lam that moves weights hurts already, the range is the step up to the first lam that hurts.

    Raises:
        ValueError: If the training without a penalty diverged, or the smallest lam hurts already.
    """
    if baseline.loss is None or baseline.norm is None:
        raise ValueError("range: the training without a penalty must not diverge, got a loss that is not finite")
    moving = [point.lam for point in points if moves(point, baseline)]
    hurting = [point.lam for point in points if hurts(point, baseline)]
    harmless = [point.lam for point in points if point.lam < min(hurting, default=math.inf)]
    if not harmless:
        raise ValueError(f"range: the smallest lam must not hurt, got {points[0].lam:g}, which does: begin lower")
    notes = []
    low, high = min(moving, default=harmless[-1]), harmless[-1]
    if not moving:
        notes.append(f"no lam up to {points[-1].lam:g} moves the weights: measure larger ones")
    elif low == points[0].lam:
        notes.append(f"the smallest lam, {low:g}, moves the weights already: measure smaller ones")
    if not hurting:
        notes.append(f"no lam up to {high:g} hurts: measure larger ones")
    if low > high:
        low, high = high, min(hurting)
        notes.append(f"no lam moves the weights without hurting: {low:g} does neither, {high:g} hurts; measure between")
    elif low == high:
        low = high / 10
        notes.append(f"both ends are at {high:g}, so the range begins one decade below it")
    return Found(
        regularizer=short_name(config.regularizer),
        architecture=short_name(config.architecture),
        dataset=short_name(config.dataset),
        optimizer=short_name(config.optimizer),
        max_epochs=config.max_epochs,
        low=low,
        high=high,
        baseline=baseline,
        points=list(points),
        notes=notes,
    )


def moves(point: Point, baseline: Point) -> bool:
    if point.norm is None or baseline.norm is None:
        return True
    return (point.share or 0.0) > MOVES or abs(point.norm / baseline.norm - 1) > MOVES


def hurts(point: Point, baseline: Point) -> bool:
    if point.loss is None or baseline.loss is None:
        return True
    return point.loss > (1 + HURTS) * baseline.loss or (point.share or 0.0) > PENALTY_RATIO_LIMIT


def write_range(found: Found, path: Path) -> None:
    """Write the JSON file that `--range-from` reads."""
    text = json.dumps(found.model_dump(), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text))


def draw(found: Found) -> Figure:
    """The penalty share and the loss against lam, with the range shaded."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    lams = [point.lam for point in found.points]
    upper.plot(lams, [point.share or math.nan for point in found.points], marker="o", color=COLOURS[0])
    upper.axhline(MOVES, color="black", linestyle=":", linewidth=1, label=f"{MOVES:g}: starts to move weights")
    upper.axhline(
        PENALTY_RATIO_LIMIT,
        color="black",
        linestyle="--",
        linewidth=1,
        label=f"{PENALTY_RATIO_LIMIT:g}: dominates the loss",
    )
    upper.set(yscale="log", ylabel="penalty share")
    losses = [math.nan if point.loss is None else point.loss for point in found.points]
    lower.plot(lams, losses, marker="o", color=COLOURS[1])
    assert found.baseline.loss is not None
    limit = (1 + HURTS) * found.baseline.loss
    lower.axhline(limit, color="black", linestyle=":", linewidth=1, label=f"{HURTS:.0%} above no penalty")
    lower.set(xscale="log", yscale="log", xlabel="lam", ylabel="loss of the task")
    for axes in (upper, lower):
        axes.axvspan(found.low, found.high, color=COLOURS[2], alpha=0.2, label=f"{found.low:.2g} to {found.high:.2g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    upper.set_title(f"{found.regularizer}: {found.architecture} on {found.dataset}, {found.max_epochs} epochs")
    return figure
