"""The table of a trained grid: accuracies to look up instead of training."""

import csv
import gzip
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.digits_grid import ARMS, EPOCHS, FULL_EPOCHS, SEEDS, Point, grid, make_arm

__all__ = ["GridTable", "Trainings", "read_tables"]


@dataclass(frozen=True)
class GridTable:
    """Accuracies of one arm at the target sparsity.

    Args:
        axes: epochs -> parameter -> its values in the grid, ascending.
        values: epochs -> array indexed by the axes' values and the seed; nan where a training diverged.
    """

    axes: Mapping[int, Mapping[str, Sequence[float]]]
    values: Mapping[int, np.ndarray]

    def nearest(self, params: Point, epochs: int) -> tuple[int, ...]:
        """Index of the grid point that is nearest on a logarithmic scale."""
        axes = self.axes[epochs]
        return tuple(
            min(range(len(values)), key=lambda i: abs(math.log(values[i] / params[name])))
            for name, values in axes.items()
        )

    def num_seeds(self, epochs: int) -> int:
        return self.values[epochs].shape[-1]

    def means(self, epochs: int = FULL_EPOCHS) -> np.ndarray:
        """The mean over seeds of every grid point. A diverged training counts as accuracy 0."""
        return np.nan_to_num(self.values[epochs], nan=0.0).mean(axis=-1)

    def regret(self, params: Point | None) -> float:
        """How much the mean of a configuration at full length is below the best mean; None selects nothing."""
        means = self.means()
        return float(means.max() - (0.0 if params is None else means[self.nearest(params, FULL_EPOCHS)]))


class Trainings:
    """The trainings of one search: looks up accuracies, counts epochs and knows the best configuration so far.

    A seed is drawn for each training. The first trainings at a grid point take its seeds in random order, each once.
    The draw depends on the repetition, the grid point and the number of earlier trainings there, so that strategies are
    compared on the same draws.
    """

    def __init__(self, table: GridTable, repetition: int):
        self.table, self.repetition = table, repetition
        self.epochs = 0
        self._visits: dict[tuple[int, ...], int] = defaultdict(int)
        self._found: list[tuple[int, Point, float]] = []  # (epochs spent, configuration, accuracy), at full length

    def __call__(self, params: Point, epochs: int) -> float:
        """The accuracy after training a configuration for so many epochs; nan if it diverged."""
        index = self.table.nearest(params, epochs)
        round_, place = divmod(self._visits[epochs, *index], self.table.num_seeds(epochs))
        self._visits[epochs, *index] += 1
        order = np.random.default_rng((self.repetition, epochs, *index, round_)).permutation
        value = float(self.table.values[epochs][*index, order(self.table.num_seeds(epochs))[place]])
        self.epochs += epochs
        if epochs == FULL_EPOCHS:
            self._found.append((self.epochs, dict(params), value))
        return value

    def selected(self, budget: float = math.inf) -> Point | None:
        """The configuration with the highest mean accuracy at full length, from the first `budget` epochs."""
        by_point: dict[tuple, tuple[Point, list[float]]] = {}
        for spent, params, value in self._found:
            if spent <= budget:
                by_point.setdefault(tuple(params.items()), (params, []))[1].append(value)
        finite = [(sum(values) / len(values), params) for params, values in by_point.values() if all_finite(values)]
        return max(finite, key=lambda item: item[0])[1] if finite else None


def all_finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))


def read_tables(path: Path, sparsity: float) -> tuple[dict[str, GridTable], list[str]]:
    """The tables of all arms from the file of `benchmarks.digits_grid`.

    Only complete seeds are used: those with every grid point of an arm and a length. An arm needs one at full length.

    Returns:
        (arm -> table, one line for each arm that says which seeds are complete)
    """
    found: dict[tuple, float] = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            arm = f"{row['optimizer']} + {row['regularizer']}"
            point = tuple(float(row[name]) for name in ("lam", "rho", "weight_decay") if row[name])
            accuracy = row[f"validation {sparsity:g}"]
            found[arm, int(row["epochs"]), point, int(row["seed"])] = float(accuracy) if accuracy else math.nan
    tables, coverage = {}, []
    for choices in ARMS:
        arm = make_arm(*choices)
        axes = {epochs: grid(arm, epochs) for epochs in EPOCHS}
        values, complete = {}, {}
        for epochs in EPOCHS:
            points = list(itertools.product(*axes[epochs].values()))
            complete[epochs] = [
                seed for seed in SEEDS if all((arm.name, epochs, point, seed) in found for point in points)
            ]
            if seeds := complete[epochs]:
                flat = [found[arm.name, epochs, point, seed] for point in points for seed in seeds]
                values[epochs] = np.array(flat).reshape(*(len(v) for v in axes[epochs].values()), len(seeds))
        if FULL_EPOCHS in values:
            tables[arm.name] = GridTable({epochs: axes[epochs] for epochs in values}, values)
        seeds = "; ".join(f"{epochs} epochs: seeds {seeds or 'none'}" for epochs, seeds in complete.items())
        coverage.append(f"{arm.name}: {seeds}")
    return tables, coverage
