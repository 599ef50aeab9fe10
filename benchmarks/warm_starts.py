"""`python -m benchmarks.warm_starts`: what does a search gain from the results of a similar setting?

Searches are compared by lookup in the table of `benchmarks.digits_grid`, as in `benchmarks.strategies`. A source is
another optimizer with the same regularizer, or the same arm with half the epochs; a search of 24 configurations there
comes first and costs nothing. A misleading source is the same with its results in reverse order.

- `cold`: a search by TPE, from the arm's initial point.
- `three points`: the source's three best configurations come first, then the initial point; this is `--reuse-best`.
- `prior`: TPE also learns from the source's results (see `PriorSearch`).
- `three points and prior`: both.

The numbers are written to benchmarks/results/DATE-warm-starts.json, which the table of
docs/search-strategies.md is made from.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks._grid_table import GridTable, Trainings, read_tables
from benchmarks._measure import RESULTS
from benchmarks._page import fill
from benchmarks._strategies import order, search
from benchmarks.digits_grid import ARMS, FULL_EPOCHS, TABLE, Point, make_arm
from benchmarks.strategies import mean_with_error, paired
from service.search.proposals import Search
from service.search.samplers import clip
from service.search.space import Arm
from sweeps.digits import SWEEP

__all__ = ["KINDS", "PriorSearch", "compare", "num_of_prior", "num_until", "ranked_source"]

PAGE = Path("docs/search-strategies.md")
NUM_REPETITIONS = 40
NUM_SOURCE, NUM_TRIALS, NUM_POINTS = 24, 16, 3
SHOWN = (1, 4, 8, 16)  # numbers of configurations
# Results of the source that an arm begins with, and the number of its own results at which none of them is left.
MOST_OF_PRIOR, LAST_OF_PRIOR = 24, 12

Ranked = Sequence[tuple[Point, float]]  # configurations, best first, each with its rank from 1 (best) to 0 (worst)


class PriorSearch(Search):
    """A search of one arm whose TPE also learns from ranked configurations of a similar setting.

    A configuration with rank q there counts as one with the q-quantile of the arm's own results, because the accuracies
    of different settings cannot be compared. The number of these configurations falls to 0 as the arm's own results
    grow. TPE takes the place of the Halton points.
    """

    def __init__(self, *args: Any, prior: Ranked, **more: Any):
        self.ranked_prior = prior  # before the search asks for its first point
        super().__init__(*args, **more)

    def _history(self, index: int, num_used: int) -> optuna.Study:
        own = super()._history(index, num_used).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        values = [trial.value for trial in own] or [0.0, 1.0]
        study = optuna.create_study(direction="maximize")
        num = num_of_prior(len(self.ranked_prior), len(own))
        for place in np.linspace(0, len(self.ranked_prior) - 1, num).round().astype(int):
            point, rank = self.ranked_prior[place]
            value = float(np.quantile(values, rank))
            study.add_trial(optuna.create_trial(params=dict(point), distributions=self.arms[index].space, value=value))
        study.add_trials(own)
        return study

    def _halton(self, arm: Arm, number: int) -> dict[str, Any]:
        return {}


def num_of_prior(num: int, num_results: int) -> int:
    """How many of `num` configurations of the source count beside `num_results` of the arm's own."""
    return round(min(num, MOST_OF_PRIOR) * max(0.0, 1 - num_results / LAST_OF_PRIOR))


def cold(arm: Arm, train: Trainings, source: Ranked, seed: int) -> None:
    search(arm, train, NUM_TRIALS, seed)


def three_points(arm: Arm, train: Trainings, source: Ranked, seed: int) -> None:
    search(arm, train, NUM_TRIALS, seed, first=best_points(source))


def prior(arm: Arm, train: Trainings, source: Ranked, seed: int) -> None:
    search(arm, train, NUM_TRIALS, seed, kind=PriorSearch, prior=source)


def both(arm: Arm, train: Trainings, source: Ranked, seed: int) -> None:
    search(arm, train, NUM_TRIALS, seed, first=best_points(source), kind=PriorSearch, prior=source)


KINDS: Mapping[str, Callable[[Arm, Trainings, Ranked, int], None]] = {
    "cold": cold,
    "three points": three_points,
    "prior": prior,
    "three points and prior": both,
}


def best_points(source: Ranked) -> list[Point]:
    return [point for point, _ in source[:NUM_POINTS]]


def ranked_source(found: Sequence[tuple[float, Point]], arm: Arm, *, reverse: bool = False) -> Ranked:
    """The results of a search as configurations of another arm, ranked. Diverged trainings are left out.

    Args:
        reverse: Whether the worst comes first, as from a source that misleads.
    """
    finite = [(value, point) for value, point in found if math.isfinite(value)]
    places = order([-value if reverse else value for value, _ in finite])
    last = max(1, len(places) - 1)
    return [(clip(finite[place][1], arm.space), 1 - rank / last) for rank, place in enumerate(places)]


def num_until(regrets: Sequence[float], threshold: float) -> int:
    """How many configurations a search trains until its regret is at most this; one more than all if it never is."""
    return next((number for number, regret in enumerate(regrets, 1) if regret <= threshold), len(regrets) + 1)


def compare(
    arm: Arm, table: GridTable, source: tuple[Arm, GridTable, int], num_repetitions: int, *, reverse: bool = False
) -> dict[str, Any]:
    """Every kind of search of an arm, given a source: an arm, its table and the epochs of its trainings.

    Returns:
        By kind, each a mean with its standard error over the repetitions: `regret` after each of SHOWN; `num_until`,
        the number of configurations until the regret is within a standard error of the best mean; and `more`, the
        paired difference of num_until to cold.
    """
    means = table.means()
    best = np.nan_to_num(table.values[FULL_EPOCHS], nan=0.0).reshape(means.size, -1)[means.argmax()]
    threshold = float(best.std(ddof=1) / math.sqrt(best.size)) if best.size > 1 else 0.0
    curves: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    there, there_table, epochs = source
    for repetition in range(num_repetitions):
        # other draws of the seeds than the search itself sees
        found = search(
            there, Trainings(there_table, num_repetitions + repetition), NUM_SOURCE, repetition, epochs=epochs
        )
        ranked = ranked_source(found, arm, reverse=reverse)
        for kind, run in KINDS.items():
            train = Trainings(table, repetition)
            run(arm, train, ranked, repetition)
            curves[kind].append(
                [table.regret(train.selected(FULL_EPOCHS * number)) for number in range(1, NUM_TRIALS + 1)]
            )
    untils = {kind: [num_until(curve, threshold) for curve in rows] for kind, rows in curves.items()}
    return {
        kind: {
            "regret": [mean_with_error([curve[number - 1] for curve in curves[kind]]) for number in SHOWN],
            "num_until": mean_with_error(untils[kind]),
            "more": paired(untils[kind], untils["cold"]),
        }
        for kind in KINDS
    }


def all_cases(table: Path, sparsity: float, num_repetitions: int) -> dict[str, dict[str, Any]]:
    """case -> what `compare` returns, for every pair of settings that the table has."""
    tables, _ = read_tables(table, sparsity)
    arms = {arm.name: arm for arm in (make_arm(*choices) for choices in ARMS)}
    half = FULL_EPOCHS // 2
    cases: dict[str, tuple[str, str, int]] = {}
    for name, found in tables.items():
        if half in found.values:
            cases[f"{name}, from {half} epochs"] = name, name, half
        for other in tables:
            alike = arms[other].choices["regularizer"] == arms[name].choices["regularizer"]
            if other != name and alike:
                cases[f"{name}, from {other}"] = name, other, FULL_EPOCHS
    result = {}
    for title, (name, other, epochs) in cases.items():
        for reverse in (False, True):
            source = arms[other], tables[other], epochs
            found = compare(arms[name], tables[name], source, num_repetitions, reverse=reverse)
            result[title + (" in reverse order" if reverse else "")] = found
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help=f"table of trainings (default: {TABLE.name})")
    parser.add_argument(
        "--repetitions", type=int, default=NUM_REPETITIONS, help=f"of each search (default: {NUM_REPETITIONS})"
    )
    parser.add_argument("--write", type=Path, nargs="?", const=PAGE, help=f"page whose table is replaced ({PAGE})")
    args = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        cases = all_cases(args.table, SWEEP.trial.target_sparsity, args.repetitions)
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "num_repetitions": args.repetitions,
        "shown": SHOWN,
        "cases": cases,
    }
    path = RESULTS / f"{record['date']}-warm-starts.json"
    path.write_text(json.dumps(record) + "\n")
    print(f"written to {path}")
    if args.write:
        args.write.write_text(fill(args.write.read_text(), {"results": {}}))


if __name__ == "__main__":
    main()
