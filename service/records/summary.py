"""The result of a sweep in numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from service.records.best import without_seed
from service.records.goal import Goal, excess
from service.records.state import State, TrialRecord
from service.statistics import MIN_SEEDS, compare, holm, mean_and_spread
from trainables.config import hyperparameters
from trainables.result import SIZES, Status

__all__ = [
    "Cells",
    "choose_winner",
    "configurations_by_arm",
    "current_summary",
    "level_name",
    "recorded_export",
    "search_rows",
    "summarize",
]

NOT_IN_TABLES = {"sparsity", "loss", "collapsed", *SIZES} - {"macs_left"}


def summarize(state: State, *, objective: str, complete: bool) -> dict[str, Any]:
    """The result of a sweep so far, as JSON values.

    Args:
        state: The sweep's state.
        objective: The metric that the search maximizes after pruning, e.g. "acc".
        complete: Whether all trials of the sweep have ended.

    Returns:
        Among others:

        - goal: what is maximized, in words; `method` is the pruning method that decides it
        - levels: the sparsities of the tables, by pruning method, which are labels; the decisive method comes first
        - arms: the best configuration of each arm in the search, with its validation curve. Best means the highest mean
          of the goal on validation over the seeds of the search, among the arm's finalists with the most seeds that
          satisfy the sweep's limits if there are any (`feasible`); `violated` names the limits that it violates.
          num_configurations counts the finished configurations of the arm, num_trials all of its trials in the search.
        - confirmed: the selected configuration of each arm, trained again on unseen seeds, with mean, standard
          deviation and n over those seeds alone, on validation and test. `against` compares each with the same
          optimizer without a regularizer: paired by seed, on test, by the goal.
        - superseded: the configurations that were confirmed before their arm selected another one, with the unseen
          seeds of their finished trials. They are compared with nothing.
        - others, in each row: its curves by the other pruning methods, by label.
        - winner: among the confirmed configurations with the most seeds, the best on *validation*, so that its test
          result stays unbiased; without a confirmation, the best of the search. `against_baseline` compares it on test
          with the best confirmed arm that has no regularizer, chosen in the same way.
        - metrics, in each row: the other metrics, dense and at the target sparsity.
        - num_left_out: the number of trials that do not fit the sweep any more.
        - warnings, failures: a row for each warning and for each trial that did not finish.
    """
    search, goal = state.finished("search"), state.goal
    trials = [trial for trial in state.trials.values() if not trial.left_out]
    measured = [trial for trial in (*search, *state.finished("confirm")) if goal.value(trial) is not None]
    cells = Cells(objective, goal, measured)
    arms = search_rows(state, cells)
    selected, superseded = confirmations(state, arms)
    confirmed = confirmed_rows(state, cells, selected)
    return {
        "sweep": state.folder.name,
        "complete": complete,
        "objective": objective,
        "target_sparsity": goal.target_sparsity,
        "goal": goal.in_words(objective),
        "area": goal.area,
        "method": goal.method,
        "levels": {label: [level_name(level) for level in levels] for label, levels in cells.levels.items()},
        "counts": dict(Counter(t.status for t in trials)),
        "num_left_out": len(state.trials) - len(trials),
        "seconds": round(sum(t.report.get("seconds") or 0.0 for t in trials), 1),
        "arms": arms,
        "confirmed": confirmed,
        "superseded": [
            {**describe(trials[0]), "seeds": [t.config["seed"] for t in trials]}
            for trials in (finished_of(configuration) for configuration in superseded)
            if trials
        ],
        "winner": choose_winner(arms, confirmed),
        "warnings": [{"trial": t.key, "arm": t.arm, "warning": text} for t in trials for text in t.warnings],
        "failures": [
            {"trial": t.key, "arm": t.arm, "status": t.status, "reason": t.reason}
            for t in trials
            if t.done and t.status != Status.FINISHED
        ]
        + [
            {"trial": t.key, "arm": t.arm, "status": "not pruned", "reason": t.unmeasured}
            for t in trials
            if t.unmeasured
        ],
    }


def current_summary(state: State) -> dict[str, Any]:
    """The result of a recorded sweep so far, which may be running; see `summarize`.

    It has the costs of the winner's exported network (`exported`) if they were recorded.
    """
    finished = [trial for trial in state.trials.values() if trial.pruned]
    objective = (state.summary or {}).get("objective") or (finished[0].objective if finished else "acc")
    summary = summarize(state, objective=objective, complete=state.complete)
    return summary | recorded_export(state, summary)


def recorded_export(state: State, summary: Mapping[str, Any]) -> dict[str, Any]:
    """`exported` of the last recorded summary, if another one is about the same network; empty otherwise."""
    recorded = state.summary or {}
    exported, winner = recorded.get("exported"), summary["winner"]
    if not exported or not winner or recorded["target_sparsity"] != summary["target_sparsity"]:
        return {}
    return {"exported": exported} if exported["trial"] == winner["checkpoint_trial"] else {}


class Cells:
    """Mean, spread and n over the trials of a configuration.

    Args:
        objective: The metric that the search maximizes.
        goal: What the sweep maximizes.
        trials: The trials of the tables.

    Attributes:
        levels: By label of the pruning method, the sparsities that all of these trials have. Methods that some of them
            lack are left out.
    """

    def __init__(self, objective: str, goal: Goal, trials: Sequence[TrialRecord]):
        self.objective, self.goal = objective, goal
        self.other_metrics: dict[str, list[str]] = {}
        for split in ("curve", "test"):  # a task may measure more on the test split
            rows = [row for trial in trials for row in trial.rows(goal.method, split)]
            # those of all trials: earlier versions recorded no macs_left, and not every network can be traced for it
            shared = set(rows[0]).intersection(*rows) - {*NOT_IN_TABLES, objective} if rows else set()
            self.other_metrics[split] = [name for name in (rows[0] if rows else ()) if name in shared]
        self.levels: dict[str, list[float]] = {}
        for label in dict.fromkeys((goal.method, *(label for trial in trials for label in trial.pruned))):
            measured = [{row["sparsity"] for row in trial.rows(label)} for trial in trials]
            if common := set.intersection(*measured) if measured else set():
                self.levels[label] = sorted(common)

    def curve(self, trials: Sequence[TrialRecord], split: str, label: str | None = None) -> dict[str, Any]:
        """The objective by sparsity, after pruning by one method; by default the decisive one."""
        label = label or self.goal.method
        return self._by_level(trials, self.objective, split, self.levels.get(label, ()), label)

    def curves_of_others(self, trials: Sequence[TrialRecord], split: str) -> dict[str, Any]:
        """`curve` for each other pruning method."""
        return {label: self.curve(trials, split, label) for label in self.levels if label != self.goal.method}

    def others(self, trials: Sequence[TrialRecord], split: str) -> dict[str, Any]:
        """The other metrics, each dense and at the target sparsity."""
        levels = list(dict.fromkeys((0.0, self.goal.target_sparsity)))
        names = self.other_metrics[split]
        return {name: self._by_level(trials, name, split, levels, self.goal.method) for name in names}

    def value(self, trials: Sequence[TrialRecord], split: str = "curve") -> float:
        """The mean of the goal."""
        return fmean(self.values(trials, split))

    def values(self, trials: Sequence[TrialRecord], split: str) -> list[float]:
        return [self.goal.value(trial, split) for trial in trials]  # type: ignore[misc]

    def num_collapsed(self, trials: Sequence[TrialRecord]) -> int:
        return sum(self.goal.collapsed(trial) for trial in trials)

    @staticmethod
    def _by_level(
        trials: Sequence[TrialRecord], name: str, split: str, levels: Sequence[float], label: str
    ) -> dict[str, Any]:
        return {level_name(s): mean_and_spread([t.at(s, name, split, label) for t in trials]) for s in levels}  # type: ignore[misc]


def search_rows(state: State, cells: Cells) -> list[dict[str, Any]]:
    """A row for the best configuration of each arm in the search."""
    goal = state.goal
    by_arm = {
        arm: [trials for trials in configurations if has_goal(goal, trials)]
        for arm, configurations in configurations_by_arm(state.finished("search")).items()
    }
    everything = [trials for configurations in by_arm.values() for trials in configurations]
    rows = []
    for arm, configurations in by_arm.items():
        if not configurations:
            continue
        candidates = finalists(state.identity, cells, configurations, everything)
        # Finalists have more seeds than the others, whose single results are often good by luck.
        most = max(map(len, candidates))
        compared = [trials for trials in candidates if len(trials) == most]
        best = compared[ranking(cells, compared, everything)[0]]
        violated = names_of(goal.violations([best], among=everything)[0])
        rows.append(
            {
                **describe(best[0]),
                "num_configurations": len(configurations),
                "num_seeds": len(best),
                "num_trials": sum(
                    t.phase == "search" and t.arm == arm and not t.left_out for t in state.trials.values()
                ),
                "num_collapsed": sum(cells.num_collapsed(trials) for trials in configurations),
                "feasible": not violated,
                "violated": violated,
                "curve": cells.curve(best, "curve"),
                "others": {label: {"curve": curve} for label, curve in cells.curves_of_others(best, "curve").items()},
                "value": cells.value(best),
                "metrics": cells.others(best, "curve"),
            }
        )
    return rows


def finalists(
    identity: Mapping[str, Any],
    cells: Cells,
    configurations: Sequence[list[TrialRecord]],
    everything: Sequence[list[TrialRecord]],
) -> Sequence[list[TrialRecord]]:
    """The configurations of an arm that the sweep selects from, best on the search's own seeds first.

    A finalist that later configurations have beaten on these seeds is none any more, although it has further seeds.
    """
    if "num_finalists" not in identity:
        return configurations
    num_seeds = identity["num_search_seeds"]  # of the trials, which are ordered by seed, these come first
    whole = [trials for trials in configurations if len(trials) >= num_seeds] or configurations
    among = [trials[:num_seeds] for trials in everything]
    order = ranking(cells, [trials[:num_seeds] for trials in whole], among)
    return [whole[index] for index in order[: identity["num_finalists"]]]


def ranking(
    cells: Cells, configurations: Sequence[Sequence[TrialRecord]], among: Sequence[Sequence[TrialRecord]]
) -> list[int]:
    """The places of configurations in their list, that of the best first.

    Args:
        among: The configurations whose costs relative limits are distances from.
    """
    violations = cells.goal.violations(configurations, among=among)
    ranks = [(excess(of), -cells.value(trials)) for of, trials in zip(violations, configurations, strict=True)]
    return sorted(range(len(ranks)), key=ranks.__getitem__)


def confirmations(
    state: State, arms: Sequence[Mapping[str, Any]]
) -> tuple[list[list[TrialRecord]], list[list[TrialRecord]]]:
    """The configurations with trials on unseen seeds: the selected one of each arm, and those selected earlier.

    More trials, finalists or a retry may change an arm's selection. Until the new one is trained on an unseen seed, the
    latest one counts.

    Args:
        arms: The rows of the search.
    """
    selected = {without_seed(state.trials[row["trial"]].config) for row in arms}
    trials = [trial for trial in state.trials.values() if trial.phase == "confirm" and not trial.left_out]
    latest: dict[str, str] = {}  # by arm
    for trial in trials:
        if latest.get(trial.arm) not in selected:
            latest[trial.arm] = without_seed(trial.config)
    found: tuple[list[list[TrialRecord]], list[list[TrialRecord]]] = ([], [])
    for arm, configurations in configurations_by_arm(trials).items():
        for configuration in configurations:
            found[without_seed(configuration[0].config) != latest[arm]].append(configuration)
    return found


def finished_of(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [trial for trial in trials if trial.status == Status.FINISHED]


def names_of(violations: Mapping[str, float]) -> list[str]:
    """The limits that a configuration violates."""
    return [name for name, violation in violations.items() if violation > 0]


def has_goal(goal: Goal, trials: Sequence[TrialRecord]) -> bool:
    return all(goal.value(trial) is not None for trial in trials)


def confirmed_rows(state: State, cells: Cells, selected: Sequence[list[TrialRecord]]) -> list[dict[str, Any]]:
    """A row for each confirmed configuration: those with the most seeds first, among these the best first.

    Configurations that violate a limit come last. The search decides this: its seeds selected them.

    Args:
        selected: The trials of each arm's selected configuration on unseen seeds (see `confirmations`).
    """
    searched = [
        trials
        for configurations in configurations_by_arm(state.finished("search")).values()
        for trials in configurations
        if has_goal(state.goal, trials)
    ]
    known = dict(zip((without_seed(t[0].config) for t in searched), state.goal.violations(searched), strict=True))
    rows = []
    for trials in map(finished_of, selected):
        if not trials or not has_goal(state.goal, trials):
            continue
        validation = cells.curves_of_others(trials, "curve")
        test = cells.curves_of_others(trials, "test")
        own = known.get(without_seed(trials[0].config)) or state.goal.violations([trials], among=searched)[0]
        rows.append(
            {
                **describe(trials[0]),
                "seeds": [t.config["seed"] for t in trials],
                "num_collapsed": cells.num_collapsed(trials),
                "feasible": not names_of(own),
                "violated": names_of(own),
                "validation": cells.curve(trials, "curve"),
                "test": cells.curve(trials, "test"),
                "others": {label: {"validation": validation[label], "test": test[label]} for label in validation},
                "test_values": cells.values(trials, "test"),
                "metrics": cells.others(trials, "test"),
                "value": cells.value(trials),
                # Selected on validation. The first of several equal ones.
                "checkpoint_trial": max(trials, key=state.goal.value).key,  # type: ignore[arg-type]
            }
        )
    rows.sort(key=lambda row: (not row["feasible"], -len(row["seeds"]), -row["value"]))
    add_comparisons(rows)
    return rows


def add_comparisons(confirmed: Sequence[dict[str, Any]]) -> None:
    """Compare each arm with the same optimizer without a regularizer.

    p_holm is corrected over all comparisons with enough seeds.
    """
    alone: dict[str, dict[str, Any]] = {}
    for row in confirmed:  # the first one is the best
        if row["regularizer"] == "none":
            alone.setdefault(row["optimizer"], row)
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
        winner = max(arms, key=lambda row: (row["feasible"], row["value"]))
        return {**winner, "checkpoint_trial": winner["trial"]}
    return None


def by_seed(row: Mapping[str, Any]) -> dict[int, float]:
    return dict(zip(row["seeds"], row["test_values"], strict=True))


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


def level_name(sparsity: float) -> str:
    return f"{sparsity:g}"
