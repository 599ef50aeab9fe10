"""Views of MLflow's pages that compare the trials of a sweep, and the links that open them.

A saved view is a tag of the experiment whose value MLflow's pages read. Its keys are not documented. If a later MLflow
does not know one, the page shows its defaults.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import sparsity

__all__ = ["TAG", "experiments_with_views", "link", "note", "run_colour", "views"]

TAG = "mlflow.sharedViewState."  # the tag of a view is this followed by its key
CHARTS, ARMS, CONFIRMED = "trials", "arms", "confirmed"
SECTION = "sweep"
# The palette of service.views.figures, which imports matplotlib, without black and yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def run_colour(regularizer: str) -> str:
    """The colour of a run, the same in every sweep: one for each regularizer, grey without one."""
    if regularizer == "none":
        return "#7F7F7F"
    known = [name for name in sparsity.names("regularizers") if name != "none"]
    return COLOURS[(known.index(regularizer) if regularizer in known else len(known)) % len(COLOURS)]


def views(objective: str, milliseconds: int) -> Iterator[tuple[str, str]]:
    """The saved views of a sweep as tags of its experiment.

    Args:
        objective: The metric that the search maximizes after pruning, e.g. "acc".
        milliseconds: When the sweep began. It is part of a view, and a fixed time gives the same tag each time.

    Yields:
        The name of a tag and its value.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {
        CHARTS: ("All trials, best first", {}),
        ARMS: ("Arms: means over their trials", {"groupBy": by("arm")}),
        CONFIRMED: ("Arms on unseen seeds", {"groupBy": by("arm"), "searchFilter": "tags.phase = 'confirm'"}),
    }
    for key, (name, changes) in found.items():
        state = json.dumps(view(objective) | changes)
        packed = "deflate;" + base64.b64encode(zlib.compress(state.encode())).decode()
        yield (
            TAG + key,
            json.dumps({"name": name, "createdAt": milliseconds, "updatedAt": milliseconds, "state": packed}),
        )


def by(tag: str) -> dict[str, Any]:
    return {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": tag}]}


def view(objective: str) -> dict[str, Any]:
    """The state of a page: every trial, sorted by the objective after pruning, with four charts."""
    pruned, dense = f"{objective}_pruned", f"{objective}_dense"
    columns = [f"metrics.`{pruned}`", f"metrics.`{dense}`", "params.`optimizer`", "params.`regularizer`"]
    columns += ["metrics.`lam`", "metrics.`rho`", "params.`seed`", "tags.`phase`"]
    return {
        "searchFilter": "tags.trial != 'all'",
        "orderByKey": f"metrics.`{pruned}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": ["1", "attributes.`Run Name`", *columns, "duration", "runDateAndNestInfo"],
        "columnWidths": {"attributes.`Run Name`": 300},
        "runsHiddenMode": "SHOW_ALL",  # the default draws 10 runs
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "viewMaximized": False,
        "runListHidden": False,
        "compareRunSections": [
            section(SECTION, "Sweep", shown=True) | {"columns": 2, "cardHeight": 380},
            *(
                section(name, name, shown=False)
                for name in ("Model metrics", "System metrics", pruned, f"test_{pruned}")
            ),
        ],
        "compareRunCharts": [
            line("curve", f"{objective}_by_sparsity", xAxisKey="metric", selectedXAxisMetricKey="sparsity"),
            chart("lam", "SCATTER", xaxis=metric("log10_lam"), yaxis=metric(pruned)),
            chart(
                "parallel",
                "PARALLEL",
                selectedParams=["optimizer", "regularizer"],
                selectedMetrics=["lam", "rho", dense, pruned],
                showAllRuns=True,
            ),
            line("training", pruned, xAxisKey="step", selectedXAxisMetricKey=""),
        ],
    }


def section(key: str, name: str, *, shown: bool) -> dict[str, Any]:
    state = {"display": shown, "isReordered": True, "deleted": False, "isGenerated": not shown}
    return {"uuid": key, "name": name, **state}


def chart(key: str, kind: str, **more: Any) -> dict[str, Any]:
    state = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    return {"uuid": key, "type": kind, **state, **more}


def line(key: str, name: str, **more: Any) -> dict[str, Any]:
    state: dict[str, Any] = {"metricKey": name, "selectedMetricKeys": [name], "displayPoints": True, "range": {}}
    state |= {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": False, "lineSmoothness": 0}
    state |= {"xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric", "yAxisExpressions": []}
    return chart(key, "LINE", **state, **more)


def metric(name: str) -> dict[str, str]:
    return {"key": name, "type": "METRIC"}


def link(experiment: str, key: str = CHARTS, *, table: bool = False) -> str:
    """The address of a view, after that of the server. Any further parameter of the address would disable the view."""
    mode = "TABLE" if table else "CHART"
    return (
        f"/#/experiments/{experiment}/runs?viewStateShareKey={key}&compareRunsMode={mode}&workflowType=machine_learning"
    )


def note(experiment: str, result: str) -> str:
    """The line that MLflow shows above the pages of an experiment, with links to the views.

    Args:
        result: The result of the sweep in a sentence.
    """
    places = {"charts": link(experiment), "trials": link(experiment, table=True), "arms": link(experiment, ARMS)}
    links = ", ".join(f"[{name}]({address[1:]})" for name, address in places.items())
    return f"{result} Compare: {links}."


def experiments_with_views(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and id of each experiment that has a view.

    Args:
        found: The answer of MLflow's REST API to a search for experiments.
    """
    return [
        (each["name"], each["experiment_id"])
        for each in found.get("experiments", ())
        if any(tag["key"] == TAG + CHARTS for tag in each.get("tags", ()))
    ]
