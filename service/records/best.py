"""The best configuration that any sweep has recorded."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from service.records.state import State, TrialRecord, find_sweeps
from service.statistics import mean_and_spread
from sparsity.import_strings import short_name
from trainables.config import EVALUATED, hyperparameters
from trainables.paths import expanded
from trainables.pruning_method import PruningMethod
from trainables.result import Status

__all__ = ["PRUNING_DEFAULTS", "TRAINING_FIELDS", "best", "is_named", "near_best", "without_seed"]

# The fields that say what is trained, on which data and for how long. Values that differ in one are not comparable.
TRAINING_FIELDS = (
    *("task", "task_args", "dataset", "data", "architecture", "model", "train_size", "eval_size"),
    *("max_epochs", "patience", "batch_size", "lr_schedule", "lr_sched"),
)
# The fields that say how a network is pruned, with their defaults.
PRUNING_DEFAULTS = {
    "pruning_schedule": "one_shot",
    **{name: field.default for name, field in PruningMethod.model_fields.items()},
}

CLOSE = 0.01  # metrics that differ by less count as equal


def best(
    runs: str | Path = "runs",
    *,
    architecture: str | None = None,
    dataset: str | None = None,
    optimizer: str | None = None,
    regularizer: str | None = None,
    skip_sweep: str | None = None,
) -> list[dict[str, Any]]:
    """The best configuration of each arm at each sparsity, from the records of all sweeps.

    An arm is an optimizer with a regularizer. Configurations compete only with those of the same arm that are trained
    alike (`TRAINING_FIELDS`), pruned alike (`PRUNING_DEFAULTS`) and measured at the same sparsity. Only finished trials
    count. A configuration that was confirmed on unseen seeds beats every other one, because the search selects
    configurations for being lucky on its own seeds; otherwise the higher mean wins.

    Args:
        runs: The folder of all records.
        architecture: Only this architecture.
        dataset: Only this dataset.
        optimizer: Only this optimizer.
        regularizer: Only this regularizer.
        skip_sweep: Leave out the sweep of this name.

    Returns:
        A row for each group of comparable configurations:

        - value, spread, n: mean of the objective on validation after pruning, its sample standard deviation (None for
          n = 1), and the number of seeds
        - num_prunable: number of weights that pruning may remove; None if it was not recorded
        - penalty_share: mean penalty share at the start of the training; None if it was not recorded
        - macs_left: mean fraction of the multiply-accumulate operations after shrinking, None if it was not recorded
        - seeds: "unseen" if the mean is over the seeds of the confirmation, else "search"
        - metric: the name of the objective
        - arm, optimizer, regularizer, lam, rho, lr, weight_decay: the configuration; None where it has no such argument
        - is_target: whether a sweep with this configuration maximizes the metric at the sparsity
        - sparsity, and the fields of `TRAINING_FIELDS` and `PRUNING_DEFAULTS`
        - sweep, trial: where the configuration was trained with its first seed
    """
    wanted = {"architecture": architecture, "dataset": dataset, "optimizer": optimizer, "regularizer": regularizer}
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for trials in configurations(expanded(runs, "runs"), wanted, skip_sweep):
        trained = training_of(trials[0].trial.config)
        for row in rows_of(trials):
            group = comparable(row, trained)
            if group not in chosen or rank(row) > rank(chosen[group]):
                chosen[group] = row
    return [chosen[group] for group in sorted(chosen)]


@dataclass
class Recorded:
    """A finished trial as all sweeps that have it recorded it."""

    sweep: str  # the first one
    trial: TrialRecord
    targets: set[float | None]


def configurations(runs: Path, wanted: Mapping[str, str | None], skip_sweep: str | None) -> Iterator[list[Recorded]]:
    """The finished trials of each configuration. A trial recorded by two sweeps counts once."""
    groups: dict[str, dict[str, Recorded]] = {}
    for folder in find_sweeps(runs):
        if folder.name == skip_sweep:
            continue
        for trial in State.read(folder, evaluations=False).trials.values():
            matches = all(value is None or is_named(trial.config[name], value) for name, value in wanted.items())
            if matches and trial.status == Status.FINISHED:
                group = groups.setdefault(without_seed(trial.config), {})
                found = group.setdefault(trial.key, Recorded(folder.name, trial, set()))
                found.targets.add(trial.target_sparsity)
                if found.trial is not trial:
                    found.trial = replace(found.trial, pruned=joined(found.trial.pruned, trial.pruned))
    return (list(group.values()) for group in groups.values())


def near_best(runs: str | Path, row: Mapping[str, Any]) -> list[float]:
    """The lowest and the highest lam that did about as well as that of a row of `best`, in the same sweep and arm.

    They are those of the search whose mean is at most one standard error, or `CLOSE`, below the highest one; the
    standard error is the larger of both configurations' where they have several seeds.
    """
    groups: dict[str, list[TrialRecord]] = {}
    for trial in State.read(expanded(runs, "runs") / row["sweep"], evaluations=False).finished("search"):
        if trial.arm == row["arm"]:
            groups.setdefault(without_seed(trial.config), []).append(trial)
    label = PruningMethod(**{name: row[name] for name in PruningMethod.model_fields}).label
    found: list[tuple[float, float, float]] = []  # mean, standard error, lam
    for trials in groups.values():
        values = [value for t in trials if (value := t.at(row["sparsity"], row["metric"], "curve", label)) is not None]
        if values:
            cell = mean_and_spread(values)
            found.append((cell["value"], (cell["spread"] or 0.0) / len(values) ** 0.5, trials[0].config["lam"]))
    highest = max(found, default=(0.0, 0.0, 0.0))
    close = [lam for mean, error, lam in found if mean >= highest[0] - max(CLOSE, error, highest[1])]
    return [min(row["lam"], *close), max(row["lam"], *close)] if close else [row["lam"], row["lam"]]


def joined(pruned: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The pruning results of two records of one trial; of a method that both have, those at more sparsities."""
    return {
        label: max((results[label] for results in (pruned, more) if label in results), key=lambda e: len(e["curve"]))
        for label in {**pruned, **more}
    }


def rows_of(trials: Sequence[Recorded]) -> Iterator[dict[str, Any]]:
    """The rows of one configuration, one for each sparsity."""
    confirmed = [each for each in trials if each.trial.phase == "confirm"]
    recorded = sorted(confirmed or trials, key=lambda each: each.trial.config["seed"])
    counted = [each.trial for each in recorded]
    targets = {target for each in recorded for target in each.targets}
    first = counted[0]
    config, metric = first.config, first.objective
    shares = [t.diagnostics["penalty_share_start"] for t in counted if "penalty_share_start" in t.diagnostics]
    for label, entry in first.pruned.items():
        for level in [row["sparsity"] for row in entry["curve"]]:
            found = [trial.at(level, metric, "curve", label) for trial in counted]
            left = [trial.at(level, "macs_left", "curve", label) for trial in counted]
            known = [value for value in left if value is not None]  # earlier versions recorded none
            yield {
                "architecture": config["architecture"],
                "dataset": config["dataset"],
                "arm": first.arm,
                "optimizer": config["optimizer"],
                "regularizer": config["regularizer"],
                "pruning_schedule": config.get("pruning_schedule", "one_shot"),
                **{
                    name: entry["method"].get(name, default)
                    for name, default in PRUNING_DEFAULTS.items()
                    if name != "pruning_schedule"
                },
                "sparsity": level,
                "is_target": level in targets,
                **hyperparameters(config),
                "metric": metric,
                **mean_and_spread([value for value in found if value is not None]),
                "macs_left": fmean(known) if known else None,
                "num_prunable": first.num_prunable,
                "penalty_share": fmean(shares) if shares else None,
                "seeds": "unseen" if confirmed else "search",
                **{name: config.get(name) for name in TRAINING_FIELDS},
                "sweep": recorded[0].sweep,
                "trial": first.key,
            }


def training_of(config: Mapping[str, Any]) -> str:
    """How a configuration is trained, as text."""
    return json.dumps([*(config.get(name) for name in TRAINING_FIELDS), trained_by(config)], sort_keys=True)


def trained_by(config: Mapping[str, Any]) -> dict[str, str]:
    """The digests of the import strings that decide the trained weights, as in `TrialConfig.key`."""
    return {short_name(name): d for name, d in config.get("sources", {}).items() if name != config["dataset"]}


def is_named(recorded: str, given: str) -> bool:
    """Whether a name, or the import string or label of your own code, is the recorded one."""
    return recorded in (given, short_name(given)) or (":" in given and short_name(recorded) == short_name(given))


def comparable(row: Mapping[str, Any], trained: str) -> tuple[Any, ...]:
    """What comparable rows share; sorting by it puts longer trainings first.

    Args:
        row: A row of `best`.
        trained: `training_of` its configuration.
    """
    names = ("architecture", "dataset", "optimizer", "regularizer")
    pruned = repr([sorted(row[n].items()) if isinstance(row[n], dict) else row[n] for n in PRUNING_DEFAULTS])
    return (*(row[name] for name in names), pruned, -row["max_epochs"], trained, row["sparsity"])


def rank(row: Mapping[str, Any]) -> tuple[bool, float]:
    return row["seeds"] == "unseen", row["value"]


def without_seed(config: Mapping[str, Any]) -> str:
    """What trainings of one configuration with different seeds have in common, as text."""
    left_out = {"seed", "read_test"}
    if config["pruning_schedule"] == "one_shot":
        left_out |= EVALUATED
    if config.get("patience") is None:  # as in `TrialConfig.key`
        left_out.add("num_evaluations")
    fields = {k: v for k, v in config.items() if k not in left_out} | {"sources": trained_by(config)}
    return json.dumps(fields, sort_keys=True)
