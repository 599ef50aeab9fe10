"""Timing on a shared machine: the variants take turns, so a slow moment hits all, and medians are compared."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

__all__ = ["RESULTS", "compare", "device_name", "slug"]

RESULTS = Path(__file__).parent / "results"


def compare(
    variants: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict]:
    """Of each variant, over interleaved repeats: median seconds, quartiles, the least, and median and least beside the
    first variant's. The least is what the machine does undisturbed; the medians agree with it where it was quiet."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(warmup + repeats):
        for name, run in variants.items():
            begin = clock()
            run()
            if repeat >= warmup:
                times[name].append(clock() - begin)
    first = next(iter(times.values()))
    result = {}
    for name, seconds in times.items():
        low, median, high = statistics.quantiles(seconds, n=4)
        result[name] = {
            "median_s": median,
            "quartiles_s": [low, high],
            "min_s": min(seconds),
            "ratio": median / statistics.median(first),
            "min_ratio": min(seconds) / min(first),
            "seconds": seconds,
        }
    return result


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name}, {torch.get_num_threads()} threads"


def slug(name: str) -> str:
    """A name as part of a file's: "AMD EPYC, 2 threads" -> "amd-epyc-2-threads"."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())[:60]
