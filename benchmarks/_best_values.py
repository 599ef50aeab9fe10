"""What the benchmarks write into search_spaces/best.toml: good values with the setting in which they were found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks._study import Found
from trainables.config import hyperparameters

__all__ = ["BEST", "best_entries", "entry"]

BEST = Path(__file__).parents[1] / "search_spaces" / "best.toml"
KEPT = 0.9  # arms below this share of the best one's accuracy have no values worth reusing


def entry(fields: Mapping[str, Any]) -> str:
    """An entry of the file. Fields that are None are left out."""
    lines = [f"{name} = {as_toml(value)}" for name, value in fields.items() if value is not None]
    return "\n".join(["[[best]]", *lines])


def as_toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {as_toml(each)}" for name, each in value.items()) + " }"
    return json.dumps(value)


def best_entries(found: Found, source: str) -> str:
    """The confirmed configuration of each arm of a study, the best by validation first.

    `value` is the mean test accuracy at the target.

    Args:
        source: The page about the study.
    """
    measured = [arm for arm in found.arms if found.values(arm, found.target, split="curve")]
    means = {arm: found.mean(arm, found.target, split="curve") for arm in measured}
    counts = [trial.num_prunable for trials in found.arms.values() for trial in trials]
    num_prunable = next(filter(None, counts), None)  # the network is the same; earlier versions recorded none
    entries = []
    for arm in sorted(means, key=means.__getitem__, reverse=True):
        if means[arm] < KEPT * max(means.values()):
            continue
        config = found.arms[arm][0].config
        values = {name: rounded(value) for name, value in hyperparameters(config).items()}
        entries.append(
            entry(
                {
                    "source": source,
                    **{name: config[name] for name in ("dataset", "architecture", "model", "optimizer", "regularizer")},
                    **values,
                    **{name: config[name] for name in ("max_epochs", "target_sparsity")},
                    "recalibrate": config.get("recalibrate") or None,
                    "num_prunable": num_prunable,
                    "value": round(found.mean(arm, found.target), 3),
                    "n": len(found.arms[arm]),
                }
            )
        )
    return "\n\n".join(entries)


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
