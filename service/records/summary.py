"""The result of a sweep in numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from service.records.best import without_seed
from service.records.state import State, TrialRecord
from service.statistics import MIN_SEEDS, compare, holm, mean_and_spread
from trainables.config import hyperparameters
from trainables.result import Status

__all__ = ["configurations_by_arm", "describe", "level_name", "mean_objective", "summarize"]


def summarize(state: State, *, objective: str, target_sparsity: float, complete: bool) -> dict[str, Any]:
    """The result of a sweep so far, as JSON values.

    Args:
        state: The sweep's state.
        objective: The metric that the search maximizes, e.g. "acc".
        target_sparsity: The sparsity at which this metric is maximized.
        complete: Whether all trials of the sweep have ended.

    Returns:
        Among others:

        - arms: the best configuration of each arm in the search, with its validation curve. Best means the highest mean
          objective on validation at the target sparsity over the seeds of the search. num_configurations counts the
          finished configurations of the arm, num_trials all of its trials in the search.
        - confirmed: the configurations trained again on unseen seeds, with mean, standard deviation and n over those
          seeds alone, on validation and test. `against` compares each with the same optimizer without a regularizer:
          paired by seed, on test, at the target sparsity.
        - winner: among the confirmed configurations with the most seeds, the best on *validation*, so that its test
          result stays unbiased; without a confirmation, the best of the search. `against_baseline` compares it on test
          with the best confirmed arm that has no regularizer, chosen in the same way.
        - metrics, in each row: the other metrics, dense and at the target sparsity.
        - warnings, failures: a row for each warning and for each trial that did not finish.
    """
    search, trials = state.finished("search"), list(state.trials.values())
    measured = search[0].curve if search else []
    cells = Cells(objective, target_sparsity, measured)
    arms = search_rows(state, cells)
    confirmed = confirmed_rows(state, cells)
    return {
        "sweep": state.folder.name,
        "complete": complete,
        "objective": objective,
        "target_sparsity": target_sparsity,
        "levels": [level_name(point["sparsity"]) for point in measured],
        "num_search_seeds": len({t.config["seed"] for t in search}),
        "counts": dict(Counter(t.status for t in trials)),
        "seconds": round(sum(t.report.get("seconds") or 0.0 for t in trials), 1),
        "arms": arms,
        "confirmed": confirmed,
        "winner": choose_winner(arms, confirmed),
        "warnings": [{"trial": t.key, "arm": t.arm, "warning": text} for t in trials for text in t.warnings],
        "failures": [
            {"trial": t.key, "arm": t.arm, "status": t.status, "reason": t.reason}
            for t in trials
            if t.done and t.status != Status.FINISHED
        ],
    }


class Cells:
    """Mean, spread and n over the trials of a configuration.

    Args:
        objective: The metric that the search maximizes.
        target_sparsity: The sparsity at which this metric is maximized.
        measured: The validation curve of one trial, which names the metrics.
    """

    def __init__(self, objective: str, target_sparsity: float, measured: Sequence[Mapping[str, Any]]):
        self.objective, self.target_sparsity = objective, target_sparsity
        names = measured[0] if measured else ()
        self.other_metrics = [name for name in names if name not in ("sparsity", "loss", "collapsed", objective)]

    def curve(self, trials: Sequence[TrialRecord], split: str) -> dict[str, Any]:
        """The objective by sparsity."""
        return self._by_level(trials, self.objective, split, [point["sparsity"] for point in trials[0].curve])

    def others(self, trials: Sequence[TrialRecord], split: str) -> dict[str, Any]:
        """The other metrics, each dense and at the target sparsity."""
        levels = list(dict.fromkeys((0.0, self.target_sparsity)))
        return {name: self._by_level(trials, name, split, levels) for name in self.other_metrics}

    @staticmethod
    def _by_level(trials: Sequence[TrialRecord], name: str, split: str, levels: Sequence[float]) -> dict[str, Any]:
        return {level_name(s): mean_and_spread([t.at(s, name, split) for t in trials]) for s in levels}  # type: ignore[misc]


def search_rows(state: State, cells: Cells) -> list[dict[str, Any]]:
    """A row for the best configuration of each arm in the search."""
    rows = []
    for arm, configurations in configurations_by_arm(state.finished("search")).items():
        best = max(configurations, key=mean_objective)
        curve = cells.curve(best, "curve")
        rows.append(
            {
                **describe(best[0]),
                "num_configurations": len(configurations),
                "num_trials": sum(t.phase == "search" and t.arm == arm for t in state.trials.values()),
                "num_collapsed": sum(t.collapsed for trials in configurations for t in trials),
                "curve": curve,
                "value": curve[level_name(cells.target_sparsity)]["value"],
                "metrics": cells.others(best, "curve"),
            }
        )
    return rows


def confirmed_rows(state: State, cells: Cells) -> list[dict[str, Any]]:
    """A row for each confirmed configuration: those with the most seeds first, among these the best first."""
    rows = []
    for configurations in configurations_by_arm(state.finished("confirm")).values():
        for trials in configurations:
            validation = cells.curve(trials, "curve")
            rows.append(
                {
                    **describe(trials[0]),
                    "seeds": [t.config["seed"] for t in trials],
                    "num_collapsed": sum(t.collapsed for t in trials),
                    "validation": validation,
                    "test": cells.curve(trials, "test"),
                    "test_at_target": [t.at(cells.target_sparsity, cells.objective, "test") for t in trials],
                    "metrics": cells.others(trials, "test"),
                    "value": validation[level_name(cells.target_sparsity)]["value"],
                    "checkpoint_trial": trials[0].key,
                }
            )
    rows.sort(key=lambda row: (-len(row["seeds"]), -row["value"]))
    add_comparisons(rows)
    return rows


def add_comparisons(confirmed: Sequence[dict[str, Any]]) -> None:
    """Compare each arm with the same optimizer without a regularizer.

    p_holm is corrected over all comparisons with enough seeds.
    """
    alone = {row["optimizer"]: row for row in confirmed if row["regularizer"] == "none"}
    for row in confirmed:
        if row["regularizer"] != "none" and row["optimizer"] in alone:
            row["against"] = compare(by_seed(row), by_seed(alone[row["optimizer"]]))
    tested = [row["against"] for row in confirmed if row.get("against") and row["against"]["n"] >= MIN_SEEDS]
    for comparison, p in zip(tested, holm([comparison["p"] for comparison in tested]), strict=True):
        comparison["p_holm"] = p


def choose_winner(arms: Sequence[dict[str, Any]], confirmed: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The winner (see `summarize`), None if no trial has finished.

    Args:
        arms: The rows of the search.
        confirmed: The rows of the confirmation, in the order that `confirmed_rows` returns.
    """
    if confirmed:
        winner = dict(confirmed[0])
        baselines = [row for row in confirmed if row["regularizer"] == "none"]
        if baselines and winner["regularizer"] != "none":
            winner["baseline"] = baselines[0]["arm"]
            winner["against_baseline"] = compare(by_seed(winner), by_seed(baselines[0]))
        return winner
    if arms:
        winner = max(arms, key=lambda row: row["value"])
        return {**winner, "checkpoint_trial": winner["trial"]}
    return None


def by_seed(row: Mapping[str, Any]) -> dict[int, float]:
    return dict(zip(row["seeds"], row["test_at_target"], strict=True))


def describe(trial: TrialRecord) -> dict[str, Any]:
    """The arm and the searched values of a trial's configuration; None where it has no such argument."""
    config = trial.config
    return {
        "arm": trial.arm,
        "optimizer": config["optimizer"],
        "regularizer": config["regularizer"],
        **hyperparameters(config),
        "trial": trial.key,
    }


def configurations_by_arm(trials: Sequence[TrialRecord]) -> dict[str, list[list[TrialRecord]]]:
    """The configurations of each arm, each a list of its trials ordered by seed."""
    groups: dict[str, dict[str, list[TrialRecord]]] = {}
    for trial in sorted(trials, key=lambda t: (t.number, t.config["seed"])):
        groups.setdefault(trial.arm, {}).setdefault(without_seed(trial.config), []).append(trial)
    return {arm: list(configurations.values()) for arm, configurations in groups.items()}


def mean_objective(trials: Sequence[TrialRecord]) -> float:
    """The mean objective of a configuration on validation, pruned to the target sparsity."""
    return fmean(trial.pruned_objective for trial in trials)


def level_name(sparsity: float) -> str:
    return f"{sparsity:g}"
