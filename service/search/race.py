"""The confirmation as a race: which arm gets another unseen seed.

Every arm starts with the same few seeds. Each later stage adds one seed to every contender. Clearly beaten
arms get no more, so the comparisons that matter rest on more seeds at the same total cost. Racing decides how
many seeds each arm gets; `service.statistics` decides whether a difference is significant.
"""

import math
import statistics
from collections.abc import Collection, Sequence

__all__ = ["next_stage"]

NUM_START = 2  # seeds of every arm before any can be dropped: a variance needs two
MARGIN = 3.0  # standard errors of a difference by which an arm must trail the leader to be dropped


def next_stage(
    values: Sequence[Sequence[float]], *, baselines: Collection[int], num_seeds: int, race: bool = True
) -> dict[int, int]:
    """Number of further seeds for each arm; empty when the confirmation is complete.

    Args:
        values: Each arm's objective on its seeds so far; nan where a trial failed.
        baselines: Arms without a regularizer. The best of those still racing stays in the race, because the
            winner is compared with it.
        num_seeds: Average number of seeds of an arm. The total is at most `num_seeds * len(values)`, and no arm
            gets more than twice `num_seeds`.
        race: False gives every arm exactly `num_seeds`.

    Returns:
        Index of an arm -> number of further seeds.
    """
    counts = [len(row) for row in values]
    if not any(counts):
        first = min(NUM_START, num_seeds) if race else num_seeds
        return dict.fromkeys(range(len(values)), first)
    if not race:
        return {}
    left = num_seeds * len(values) - sum(counts)
    staying = [i for i in contenders(values, baselines) if counts[i] < 2 * num_seeds]
    return dict.fromkeys(staying, 1) if staying and left >= len(staying) else {}


def contenders(values: Sequence[Sequence[float]], baselines: Collection[int]) -> list[int]:
    """The arms that still race.

    Only arms with the most seeds, n, and without a failed trial can race. Of these, an arm is dropped
    if its mean is lower than the best mean by more than MARGIN sqrt(2 s^2 / n), where s^2 is their pooled variance
    between seeds.
    """
    n = max(len(row) for row in values)
    left = [i for i, row in enumerate(values) if len(row) == n and all(map(math.isfinite, row))]
    if not left or n < 2:
        return left
    means = {i: statistics.fmean(values[i]) for i in left}
    error = math.sqrt(2 * statistics.fmean(statistics.variance(values[i]) for i in left) / n)
    best = max(means.values())
    reference = max((i for i in left if i in baselines), key=means.__getitem__, default=None)
    return [i for i in left if means[i] >= best - MARGIN * error or i == reference]
