"""What a sweep maximizes, as a number of a finished trial."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Goal", "area_under_curve"]


class Measured(Protocol):
    """A finished trial."""

    objective: str

    def at(self, sparsity: float, metric: str, split: str, method: str) -> float | None:
        """A metric after pruning to a sparsity, None if it was not measured."""
        ...


@dataclass(frozen=True)
class Goal:
    """The objective of a sweep: a metric after pruning by one method, at one sparsity or over all of them.

    Attributes:
        target_sparsity: The sparsity at which the metric is maximized.
        levels: All sparsities of the sweep, ascending from 0.
        method: The label of the pruning method.
        area: Whether to maximize the area under the curve over `levels` instead (see `area_under_curve`).
        max_dense_drop: How far a configuration's dense metric may lie below the highest one of all arms in the search.
            None: no limit.
    """

    target_sparsity: float
    levels: tuple[float, ...]
    method: str
    area: bool = False
    max_dense_drop: float | None = None

    @classmethod
    def of(cls, identity: Mapping[str, Any]) -> "Goal":
        """The goal of a sweep with this identity (`SweepSpec.identity`)."""
        from trainables.config import PruningMethod  # lazily: it imports pydantic, which takes a quarter of a second

        trial, method = identity["trial"], PruningMethod(**identity["pruning"][0])
        target = trial["target_sparsity"]
        levels = {0.0, target} if method.only_level else {0.0, target, *trial["sparsities"]}
        area = identity["objective"] == "area"
        return cls(target, tuple(sorted(levels)), method.label, area, identity["max_dense_drop"])

    def value(self, trial: Measured, split: str = "curve") -> float | None:
        """The objective of a trial; None if it lacks a sparsity.

        Args:
            split: "curve" for validation or "test".
        """
        if not self.area:
            return trial.at(self.target_sparsity, trial.objective, split, self.method)
        values = {level: trial.at(level, trial.objective, split, self.method) for level in self.levels}
        if any(value is None for value in values.values()):
            return None
        return area_under_curve(values)  # type: ignore[arg-type]

    def dense(self, trial: Measured) -> float | None:
        """The metric of a trial before pruning, on validation."""
        return trial.at(0.0, trial.objective, "curve", self.method)

    def collapsed(self, trial: Measured) -> bool:
        """Whether the network predicts the same for every example, dense or at the target sparsity."""
        return any(trial.at(level, "collapsed", "curve", self.method) for level in (0.0, self.target_sparsity))

    def in_words(self, metric: str) -> str:
        """What is maximized, for titles: `acc at sparsity 0.96`."""
        if self.area:
            return f"area under {metric} against log density"
        return f"{metric} at sparsity {self.target_sparsity:g}"


def area_under_curve(values: Mapping[float, float]) -> float:
    """The mean of a metric over the logarithm of the density, by the trapezoidal rule.

    With densities d_i = 1 - s_i: sum_i (m_i + m_{i+1}) / 2 * log(d_i / d_{i+1}) / log(d_first / d_last). A constant
    curve has its own value. Halving the density counts the same everywhere, so high sparsities weigh more than on a
    linear scale.

    Args:
        values: Sparsity -> metric, at two sparsities or more.

    Raises:
        ValueError: If there are fewer than two sparsities.
    """
    if len(values) < 2:
        raise ValueError(f"objective: must have two sparsities or more for an area, got {sorted(values)}")
    points = sorted((math.log(1 - level), value) for level, value in values.items())
    area = sum((b - a) * (low + high) / 2 for (a, low), (b, high) in itertools.pairwise(points))
    return area / (points[-1][0] - points[0][0])
