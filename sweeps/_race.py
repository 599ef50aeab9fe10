"""The confirmation as a race: which combination gets another unseen seed.

Every combination starts with the same few seeds. Then, one seed a stage, the seeds of combinations that are clearly
beaten go to the others, so that the comparisons that matter rest on more seeds at the same total cost. Racing decides
where seeds are spent and nothing else: whether a difference is established is for `sweeps._statistics` to say.
"""

import math
import statistics
from collections.abc import Collection, Sequence

__all__ = ["next_stage"]

NUM_START = 2  # seeds of every combination before any can be dropped: a variance needs two
MARGIN = 3.0  # standard errors of a difference by which a combination must trail the leader to be dropped


def next_stage(
    values: Sequence[Sequence[float]], *, baselines: Collection[int], num_seeds: int, race: bool = True
) -> dict[int, int]:
    """How many more seeds each combination gets now; empty when the confirmation is complete.

    Args:
        values: For each combination its objective on the seeds so far; nan where a trial failed.
        baselines: Combinations without a regularizer. The best of them always stays in the race, because it is what
            the winner is compared with.
        num_seeds: Seeds of each combination on average. The total is at most `num_seeds * len(values)`, and no
            combination gets more than twice `num_seeds`.
        race: False gives every combination exactly `num_seeds`.

    Returns:
        Index of a combination -> number of further seeds.
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
    """The combinations that still race: with as many seeds as any, and not clearly behind the best of those.

    Clearly behind means a mean that is lower by more than MARGIN sqrt(2 s^2 / n), where s^2 is the variance between
    seeds pooled over the combinations that are left and n the number of their seeds.
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
