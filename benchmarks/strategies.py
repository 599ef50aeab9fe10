"""`python -m benchmarks.strategies`: compare search strategies by lookup in a table of trained networks.

The table is that of `benchmarks.digits_grid`. A training costs its epochs, and its accuracy is that of the nearest grid
point on a logarithmic scale, for a seed drawn at random. A strategy selects the configuration with the highest mean
accuracy among those that it trained at full length. Its regret is how much the mean accuracy of the selected
configuration over all seeds is below the best mean in the table.

There are two cases: the sweep's target sparsity with its initial point as the first configuration of each search, and a
higher sparsity without an initial point, as for an architecture that nothing is known about. The numbers are written to
benchmarks/results/DATE-strategies.json, which the tables and the figure of docs/search-strategies.md are made from.
This takes about half an hour with a process for each case.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from benchmarks._grid_table import GridTable, Trainings, read_tables
from benchmarks._measure import RESULTS
from benchmarks._page import fill
from benchmarks._strategies import BY_TPE, STRATEGIES, Strategy, scaled_point
from benchmarks.digits_grid import ARMS, FULL_EPOCHS, TABLE, make_arm
from service.search.space import Arm
from sweeps.digits import SWEEP

__all__ = ["BUDGETS", "compare", "draw", "short_schedules", "summarize"]

BUDGETS = (60, 120, 180, 240, 360, 720)  # epochs of one arm: 2 to 24 configurations with one seed
THIRDS = (180, 360, 720)  # budgets of the search by TPE that a third is compared with
NUM_REPETITIONS = 50
ALL_ARMS = "all arms"
OTHER_COLOURS = [f"C{index}" for index in range(10) if index != 3]  # C3, red, is highlighted
HIGHLIGHTED: Mapping[str, dict[str, Any]] = {
    BY_TPE: {"color": "black", "linewidth": 2.5},
    "Halton, then GP": {"color": "C3", "linewidth": 2.5},
}
# case -> (sparsity, whether searches start with the initial point)
CASES = {"sparsity 0.96, with the initial point": (0.96, True), "sparsity 0.98, without it": (0.98, False)}


def regrets(strategy: Strategy, arm: Arm, table: GridTable, repetition: int) -> list[float]:
    """The regret of one repetition at each of BUDGETS."""
    if not strategy.planned:
        train = Trainings(table, repetition)
        strategy.run(arm, train, max(BUDGETS), repetition)
        return [table.regret(train.selected(budget)) for budget in BUDGETS]
    found = []
    for budget in BUDGETS:
        train = Trainings(table, repetition)
        strategy.run(arm, train, budget, repetition)
        assert train.epochs <= budget
        found.append(table.regret(train.selected()))
    return found


def compare(
    tables: Mapping[str, tuple[Arm, GridTable]], strategies: Mapping[str, Strategy], num_repetitions: int
) -> dict[str, dict[str, list[list[float]]]]:
    """strategy -> arm -> regrets by repetition and budget; without the arms whose table lacks a schedule."""
    found: dict[str, dict[str, list[list[float]]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for name, strategy in strategies.items():
            by_arm = {
                arm_name: [regrets(strategy, arm, table, repetition) for repetition in range(num_repetitions)]
                for arm_name, (arm, table) in tables.items()
                if set(strategy.lengths) <= set(table.values)
            }
            if by_arm:
                found[name] = by_arm
    return found


def summarize(found: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """strategy -> arm, or ALL_ARMS for the average over arms -> means with standard errors over the repetitions.

    `regret` and `difference` (to the search by TPE at the same budget) have an entry for each of BUDGETS. `third` has
    one for each budget of THIRDS: the difference of the strategy at a third of the budget to the search by TPE at all.
    Differences are paired: both strategies see the same accuracies in a repetition.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for name, by_arm in found.items():
        rows = dict(by_arm)
        reference = dict(found[BY_TPE])
        if by_arm.keys() == found[BY_TPE].keys():
            rows[ALL_ARMS], reference[ALL_ARMS] = average(by_arm), average(found[BY_TPE])
        for arm, values in rows.items():
            ours, theirs = list(zip(*values, strict=True)), list(zip(*reference[arm], strict=True))
            third = [(ours[BUDGETS.index(b // 3)], theirs[BUDGETS.index(b)]) for b in THIRDS]
            summary.setdefault(name, {})[arm] = {
                "regret": [mean_with_error(column) for column in ours],
                "difference": [paired(*columns) for columns in zip(ours, theirs, strict=True)],
                "third": [paired(*columns) for columns in third],
            }
    return summary


def average(by_arm: Mapping[str, Sequence[Sequence[float]]]) -> list[list[float]]:
    """The mean over arms of each repetition and budget."""
    return [[statistics.fmean(cell) for cell in zip(*rows, strict=True)] for rows in zip(*by_arm.values(), strict=True)]


def mean_with_error(values: Sequence[float]) -> tuple[float, float]:
    """(mean, standard error)"""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    return mean_with_error([a - b for a, b in zip(ours, theirs, strict=True)])


def short_schedules(arm: Arm, table: GridTable) -> list[dict[str, Any]]:
    """What the means over seeds after a shorter schedule say about those at full length.

    For each length, with the configurations as they are and scaled: the rank correlation over the grid, and the regret
    of the configuration that is best after the shorter schedule.
    """
    rows = []
    points = list(itertools.product(*table.axes[FULL_EPOCHS].values()))
    full = table.means().ravel()
    for epochs in sorted(table.values.keys() - {FULL_EPOCHS}):
        row: dict[str, Any] = {"epochs": epochs}
        for name, scale in (("same", False), ("scaled", True)):
            means = table.means(epochs)
            short = []
            for values in points:
                point = dict(zip(arm.space, values, strict=True))
                short.append(means[table.nearest(scaled_point(point, epochs) if scale else point, epochs)])
            row[name] = {
                "correlation": float(spearmanr(short, full).statistic),
                "regret": float(regret_of(short, full)),
            }
        rows.append(row)
    return rows


def regret_of(short: Sequence[float], full: np.ndarray) -> float:
    """The mean regret of the configurations that share the highest value of `short`."""
    best = np.flatnonzero(np.asarray(short) == max(short))
    return full.max() - full[best].mean()


# ---- the record ----------------------------------------------------------------------------------------------------


def draw(record: Mapping[str, Any]) -> Figure:
    """Regret against epochs: a row for each case, a panel for each arm and for their average.

    Two strategies have bands, of two standard errors on each side.
    """
    cases = record["cases"]
    num_columns = max(len(case["results"][BY_TPE]) for case in cases.values())
    figure = Figure(figsize=(4 * num_columns, 4 * len(cases)), layout="constrained")
    panels = figure.subplots(len(cases), num_columns, squeeze=False)
    for row, (title, case) in zip(panels, cases.items(), strict=True):
        for axes, arm in zip(row, case["results"][BY_TPE], strict=True):
            others = iter(itertools.product(("-", "--"), OTHER_COLOURS))
            for name, by_arm in case["results"].items():
                style = HIGHLIGHTED.get(name) or dict(zip(("linestyle", "color"), next(others), strict=True))
                if arm in by_arm:
                    means, errors = (np.array(column) for column in zip(*by_arm[arm]["regret"], strict=True))
                    axes.plot(record["budgets"], means, marker="o", markersize=3, label=name, **style)
                    if name in HIGHLIGHTED:
                        band = np.maximum(means - 2 * errors, 0), means + 2 * errors
                        axes.fill_between(record["budgets"], *band, color=style["color"], alpha=0.15, linewidth=0)
            axes.set(title=f"{arm}\n{title}", xlabel="epochs", xticks=record["budgets"])
            axes.tick_params(axis="x", labelsize=7)
            axes.set_yscale("symlog", linthresh=1e-3)  # a regret can be 0
            axes.set_ylim(bottom=0)
        row[0].set_ylabel("regret")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def run_case(table: Path, sparsity: float, with_initial_point: bool, num_repetitions: int) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tables, _ = read_tables(table, sparsity)
    arms = {arm.name: arm for arm in (make_arm(*choices) for choices in ARMS)}
    if not with_initial_point:
        arms = {name: Arm(arm.choices, arm.space) for name, arm in arms.items()}
    found = compare({name: (arms[name], table) for name, table in tables.items()}, STRATEGIES, num_repetitions)
    short = {name: short_schedules(arms[name], table) for name, table in tables.items()}
    return {"results": summarize(found), "short_schedules": short}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help=f"table of trainings (default: {TABLE.name})")
    parser.add_argument(
        "--repetitions", type=int, default=NUM_REPETITIONS, help=f"of each search (default: {NUM_REPETITIONS})"
    )
    parser.add_argument("--processes", type=int, default=2, help="1 compares one case after the other (default: 2)")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="page whose tables and figure are replaced (docs/search-strategies.md)",
    )
    args = parser.parse_args(arguments)
    tables, coverage = read_tables(args.table, SWEEP.trial.target_sparsity)
    print("\n".join(coverage))
    if not tables:
        parser.exit(1, f"{args.table}: must have a complete seed of an arm at {FULL_EPOCHS} epochs, got none\n")
    begin = time.perf_counter()
    cases = [(args.table, *case, args.repetitions) for case in CASES.values()]
    if args.processes > 1:
        with ProcessPoolExecutor(len(cases), mp_context=multiprocessing.get_context("spawn")) as pool:
            results = [*pool.map(run_case, *zip(*cases, strict=True))]
    else:
        results = [run_case(*case) for case in cases]
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "num_repetitions": args.repetitions,
        "coverage": coverage,
        "budgets": BUDGETS,
        "thirds": THIRDS,
        "cases": dict(zip(CASES, results, strict=True)),
    }
    path = RESULTS / f"{record['date']}-strategies.json"
    path.write_text(json.dumps(record) + "\n")
    print(f"written to {path} after {time.perf_counter() - begin:.0f} s")
    if args.write:
        args.write.write_text(fill(args.write.read_text(), {"results": {}}))
        draw(record).savefig(args.write.with_name("strategies.png"), dpi=80)
        print(f"tables and figure replaced beside {args.write}")


if __name__ == "__main__":
    main()
