"""The metrics of a trial's run in MLflow: which points of an event are logged, and under which names."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from trainables.result import SIZES, Status

__all__ = ["metrics_left_out", "metrics_of", "rounded"]

Point = tuple[str, float, int]  # name, value, step
MOST_NAMES = 39  # of the metrics of a run: MLflow's pages slow down with their number
NAMES_AT_START = ("lam", "log10_lam", "rho")


def rounded(value: float) -> float:
    """A measured value with 6 significant digits; a count as it is."""
    return value if isinstance(value, int) else float(f"{value:.6g}")


def metrics_of(event: Mapping[str, Any]) -> Iterator[Point]:
    """The metric points of an event, with 6 significant digits: MLflow's tables show every digit.

    Yields:
        Name, value and step: the number of epochs done, for curves the sparsity in thousandths.
    """
    left_out = metrics_left_out(event)
    return ((name, rounded(value), step) for name, value, step in all_metrics_of(event) if name not in left_out)


def metrics_left_out(event: Mapping[str, Any]) -> set[str]:
    """The names that are not logged, so that a run has `MOST_NAMES` if possible.

    Only the further metrics of pruned networks are left out, such as the accuracies of single tasks. If not all of them
    fit, those at the target sparsity are logged, in the task's order as far as they fit.
    """
    if event["event"] not in ("end", "pruned") or event["status"] != Status.FINISHED:
        return set()
    first, target = event["pruned"][0], event.get("target_sparsity")
    further = {
        pruned_name(split, name, row["sparsity"]): row["sparsity"] == target
        for name in further_metrics((first["test"] or []) + first["curve"], event["objective"])
        for split, rows in (("", first["curve"]), ("test_", first["test"] or ()))
        for row in rows
        if name in row
    }
    others = {name for name, _, _ in all_metrics_of(event)} - further.keys()
    room = max(0, MOST_NAMES - len(others.union(NAMES_AT_START)))
    if len(further) <= room:
        return set()
    at_target = [name for name, is_target in further.items() if is_target]
    return further.keys() - set(at_target[:room])


def further_metrics(rows: list[Mapping[str, Any]], objective: str) -> list[str]:
    """The metrics beside the objective that are logged for each sparsity, in the task's order."""
    return [
        name for name in dict.fromkeys(name for row in rows for name in row) if is_logged(name) and name != objective
    ]


def is_logged(name: str) -> bool:
    """Whether a metric of a pruned network is logged for each sparsity."""
    return name not in ("sparsity", "loss", "collapsed", *SIZES)


def pruned_name(split: str, name: str, sparsity: float) -> str:
    return f"{split}{name}_pruned/{sparsity:g}"


def all_metrics_of(event: Mapping[str, Any]) -> Iterator[Point]:
    """`metrics_of` with all names and digits.

    lam, its logarithm and rho are metrics as well as parameters, because MLflow compares parameters as text. At the end
    of a trial there is one metric for each sparsity, e.g. "acc_pruned/0.96", unless it failed. The size after shrinking
    is recorded at the target sparsity: `macs`, `macs_left` and `parameters`. The objective is also
    one metric over all sparsities, e.g. "acc_by_sparsity", which MLflow draws as a curve and overlays for several runs.
    """
    if event["event"] == "start":
        config = event["config"]
        yield "lam", config["lam"], 0
        if config["lam"] > 0:
            yield "log10_lam", math.log10(config["lam"]), 0
        yield "rho", config["opt"].get("rho", 0.0), 0  # parallel coordinates leave out runs without a value
    elif event["event"] == "evaluation":
        yield from metrics_of_report(event["report"])
    elif event["event"] in ("end", "pruned") and event["status"] == Status.FINISHED:
        yield from metrics_of_report(event["report"])
        epoch = event["report"]["epoch"]
        for name, value in event["diagnostics"].items():
            yield name, value, epoch
        first = event["pruned"][0]
        for split, rows in (("", first["curve"]), ("test_", first["test"] or ())):
            for row in rows:
                for name, value in row.items():
                    if name in SIZES:  # of the target alone: few names keep MLflow fast
                        if not split and row["sparsity"] == event.get("target_sparsity"):
                            yield name, value, epoch
                    elif is_logged(name):
                        yield pruned_name(split, name, row["sparsity"]), value, epoch
        yield from curve_metrics(event)


def curve_metrics(end: Mapping[str, Any]) -> Iterator[Point]:
    """The objective against sparsity, and the sparsity itself, which MLflow's charts offer as the horizontal axis.

    The first pruning method's is "acc_by_sparsity". The others' names end with their label.
    """
    objective = end["objective"]
    for index, entry in enumerate(end["pruned"]):
        label = f"/{re.sub('[^-a-zA-Z0-9_./ ]', '_', entry['label'])}" if index else ""
        for split, rows in (("", entry["curve"]), ("test_", entry["test"] or ())):
            by_step = {round(1000 * row["sparsity"]): row for row in rows}  # one point a step, however close they are
            for step, row in by_step.items():
                if not split and not index:
                    yield "sparsity", row["sparsity"], step
                yield f"{split}{objective}_by_sparsity{label}", row[objective], step


def metrics_of_report(report: Mapping[str, Any]) -> Iterator[Point]:
    for name, value in report.items():
        if name != "epoch" and isinstance(value, int | float):
            yield name, value, report["epoch"]
