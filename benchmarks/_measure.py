"""Timing on a shared machine: the variants take turns, so a slow moment hits all, and medians are compared."""

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["compare"]


def compare(variants: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = 1) -> dict[str, dict]:
    """Median seconds of each variant over interleaved repeats, its quartiles, and its ratio to the first variant."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(warmup + repeats):
        for name, run in variants.items():
            begin = time.perf_counter()
            run()
            if repeat >= warmup:
                times[name].append(time.perf_counter() - begin)
    reference = statistics.median(next(iter(times.values())))
    result = {}
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4)
        result[name] = {"median_s": median, "quartiles_s": [low, high], "ratio": median / reference}
    return result
