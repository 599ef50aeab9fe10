"""The result of a sweep: a summary made from the records, and its tables for terminal, MLflow and papers."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from service.records.state import Records, TrialRecord, mean_and_spread, without_seed
from service.statistics import MIN_SEEDS, compare, holm

__all__ = ["as_markdown", "as_tables", "make_console", "summarize"]

ALPHA = 0.05


def make_console() -> Console:
    """A console with the terminal's width, or 160 columns if the output is a file or a pipe."""
    console = Console(highlight=False)
    if console.is_dumb_terminal:
        console.size = shutil.get_terminal_size()  # Rich assumes 80 columns unless both width and height are set
    if not console.is_terminal:
        console.width = 160
    return console


def print_whole(console: Console, renderable: RenderableType) -> None:
    """Print tables at their full width: in a narrow terminal, wrap long lines instead of truncating them."""
    width = console.width
    unlimited = console.options.update(max_width=1000)
    console.width = max(width, Measurement.get(console, unlimited, renderable).maximum)
    console.print(renderable, crop=False)
    console.width = width


def level_name(sparsity: float) -> str:
    return f"{sparsity:g}"


def describe(trial: TrialRecord) -> dict[str, Any]:
    config = trial.config
    return {
        "arm": trial.arm,
        "optimizer": config["optimizer"],
        "regularizer": config["regularizer"],
        "lam": None if config["regularizer"] == "none" else config["lam"],
        **{name: config["opt"].get(name) for name in ("rho", "lr", "weight_decay")},
        "trial": trial.key,
    }


def summarize(records: Records, *, objective: str, target_sparsity: float, complete: bool) -> dict[str, Any]:
    """The sweep's result so far.

    arms: each combination's best configuration in the search, with its curve. The best has the highest mean validation
        objective at the target sparsity over the seeds of the search. num_configurations counts the finished
        configurations, and num_trials all trials of the combination's search.
    confirmed: the configurations trained again on unseen seeds, with mean, standard deviation and n over those seeds
        alone, for validation and test. `against` compares each with the same optimizer without a regularizer: paired
        by seed, on test, at the target sparsity.
    winner: of the confirmed configurations with the most seeds, the best on *validation*, so that its test numbers do
        not select it; without a confirmation, the best of the search. `against_baseline` compares it on test with a
        combination without a regularizer: of those with the most seeds, the best on validation.
    metrics: the other metrics, dense and at the target sparsity.
    """
    search = records.finished("search")
    measured = search[0].curve if search else []
    metrics = [
        name for name in (measured[0] if measured else ()) if name not in ("sparsity", "loss", "collapsed", objective)
    ]
    ends = list(dict.fromkeys((0.0, target_sparsity)))
    level = level_name(target_sparsity)

    def cells(trials: Sequence[TrialRecord], name: str, split: str, levels: Sequence[float]) -> dict[str, Any]:
        return {level_name(s): mean_and_spread([t.at(s, name, split) for t in trials]) for s in levels}  # type: ignore[misc]

    rows = []
    for arm, configurations in by_arm(search).items():
        top = max(configurations, key=lambda trials: fmean(t.report[f"{objective}_pruned"] for t in trials))
        curve = cells(top, objective, "curve", [p["sparsity"] for p in top[0].curve])
        rows.append(
            {
                **describe(top[0]),
                "num_configurations": len(configurations),
                "num_trials": sum(t.phase == "search" and t.arm == arm for t in records.trials.values()),
                "num_collapsed": sum(t.collapsed for trials in configurations for t in trials),
                "curve": curve,
                "value": curve[level]["value"],
                "metrics": {name: cells(top, name, "curve", ends) for name in metrics},
            }
        )

    confirmations = []
    for configurations in by_arm(records.finished("confirm")).values():
        for trials in configurations:
            levels = [p["sparsity"] for p in trials[0].curve]
            validation, test = (cells(trials, objective, split, levels) for split in ("curve", "test"))
            confirmations.append(
                {
                    **describe(trials[0]),
                    "seeds": [t.config["seed"] for t in trials],
                    "num_collapsed": sum(t.collapsed for t in trials),
                    "validation": validation,
                    "test": test,
                    "test_at_target": [t.at(target_sparsity, objective, "test") for t in trials],
                    "metrics": {name: cells(trials, name, "test", ends) for name in metrics},
                    "value": validation[level]["value"],
                    "checkpoint_trial": trials[0].key,
                }
            )
    confirmations.sort(key=lambda row: (-len(row["seeds"]), -row["value"]))
    add_comparisons(confirmations)
    winner = None
    if confirmations:
        winner = dict(confirmations[0])
        baselines = [row for row in confirmations if row["regularizer"] == "none"]
        if baselines and winner["regularizer"] != "none":
            winner["baseline"] = baselines[0]["arm"]
            winner["against_baseline"] = compare(by_seed(winner), by_seed(baselines[0]))
    elif rows:
        winner = max(rows, key=lambda row: row["value"])
        winner = {**winner, "checkpoint_trial": winner["trial"]}
    trials = list(records.trials.values())
    return {
        "sweep": records.folder.name,
        "complete": complete,
        "objective": objective,
        "target_sparsity": target_sparsity,
        "levels": [level_name(p["sparsity"]) for p in measured],
        "num_search_seeds": len({t.config["seed"] for t in search}),
        "counts": dict(Counter(t.status for t in trials)),
        "seconds": round(sum(t.report.get("seconds") or 0.0 for t in trials), 1),
        "arms": rows,
        "confirmed": confirmations,
        "winner": winner,
        "warnings": [{"trial": t.key, "arm": t.arm, "warning": text} for t in trials for text in t.warnings],
        "failures": [
            {"trial": t.key, "arm": t.arm, "status": t.status, "reason": t.reason}
            for t in trials
            if t.done and t.status != "finished"
        ],
    }


def by_arm(trials: Sequence[TrialRecord]) -> dict[str, list[list[TrialRecord]]]:
    """Combination -> its configurations, each a list of trials ordered by seed."""
    groups: dict[str, dict[str, list[TrialRecord]]] = {}
    for trial in sorted(trials, key=lambda t: (t.number, t.config["seed"])):
        groups.setdefault(trial.arm, {}).setdefault(without_seed(trial.config), []).append(trial)
    return {arm: list(configurations.values()) for arm, configurations in groups.items()}


def by_seed(row: Mapping[str, Any]) -> dict[int, float]:
    return dict(zip(row["seeds"], row["test_at_target"], strict=True))


def add_comparisons(confirmations: Sequence[dict[str, Any]]) -> None:
    """Compare each combination with its optimizer alone; p_holm is corrected over all pairs with enough seeds."""
    alone = {row["optimizer"]: row for row in confirmations if row["regularizer"] == "none"}
    for row in confirmations:
        if row["regularizer"] != "none" and row["optimizer"] in alone:
            row["against"] = compare(by_seed(row), by_seed(alone[row["optimizer"]]))
    tested = [row["against"] for row in confirmations if row.get("against") and row["against"]["n"] >= MIN_SEEDS]
    for comparison, p in zip(tested, holm([comparison["p"] for comparison in tested]), strict=True):
        comparison["p_holm"] = p


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def with_spread(cell: Mapping[str, Any]) -> str:
    return f"{cell['value']:.3f}" + ("" if cell["spread"] is None else f" ± {cell['spread']:.3f}")


def tabulate(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables, each as title, header and rows of text."""
    levels, objective = summary["levels"], summary["objective"]
    rows = [*summary["arms"], *summary["confirmed"]]
    # Leave out a learning rate or weight decay that is the same in every row.
    keys = ["lam", "rho", *(key for key in ("lr", "weight_decay") if len({row[key] for row in rows}) > 1)]

    def settings(row: Mapping[str, Any]) -> list[str]:
        return [row["arm"], *(number(row[key]) for key in keys)]

    header = ["combination", *keys]
    tables = []
    if summary["arms"]:
        seeds = summary["num_search_seeds"]
        over = "1 seed" if seeds == 1 else f"mean ± standard deviation of {seeds} seeds"
        title = f"Best configuration of the search: {objective} after pruning at each sparsity (validation, {over})"
        body = [
            [*settings(row), str(row["num_configurations"]), *(with_spread(row["curve"][level]) for level in levels)]
            for row in summary["arms"]
        ]
        tables.append(with_collapsed((title, [*header, "tried", *levels], body), summary["arms"]))
    for split, note in (("validation", "selects the winner"), ("test", "read once")):
        if summary["confirmed"]:
            body = [
                [*settings(row), str(len(row["seeds"])), *(with_spread(row[split][level]) for level in levels)]
                for row in summary["confirmed"]
            ]
            title = f"Confirmed on n unseen seeds: {objective}, {split} split ({note}), mean ± standard deviation"
            tables.append(with_collapsed((title, [*header, "n", *levels], body), summary["confirmed"]))
    if compared := [row for row in summary["confirmed"] if row.get("against")]:
        target = level_name(summary["target_sparsity"])
        title = f"Difference to the same optimizer without a regularizer: test {objective} at {target}, paired seeds"
        body = [
            [row["arm"], str(a["n"]), f"{a['difference']:+.3f}", interval(a), *verdict(a)]
            for row in compared
            for a in [row["against"]]
        ]
        tables.append((title, ["combination", "n", "difference", "95% interval", "p (Holm)", "established"], body))
    described = summary["confirmed"] or summary["arms"]
    metrics = list(described[0]["metrics"]) if described else []
    if metrics:
        split = "test split, mean ± standard deviation" if summary["confirmed"] else "validation"
        ends = list(described[0]["metrics"][metrics[0]])
        body = [
            [*settings(row), end, *(with_spread(row["metrics"][name][end]) for name in metrics)]
            for row in described
            for end in ends
        ]
        title = f"Further metrics of these at sparsity {' and '.join(ends)} ({split})"
        tables.append((title, [*header, "sparsity", *metrics], body))
    return tables


def interval(comparison: Mapping[str, Any]) -> str:
    if comparison["interval"] is None:
        return "-"
    low, high = comparison["interval"]
    return f"{low:+.3f} to {high:+.3f}"


def verdict(comparison: Mapping[str, Any]) -> list[str]:
    """p after Holm's correction, and whether the difference is established at 0.05."""
    p = comparison.get("p_holm")
    if p is None:
        return ["-", f"no: fewer than {MIN_SEEDS} seeds"]
    return [f"{p:.3g}", "yes" if p < ALPHA else "no"]


def with_collapsed(
    table: tuple[str, list[str], list[list[str]]], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, list[str], list[list[str]]]:
    """The table, with a column for the number of collapsed trials of each row if there are any."""
    title, header, cells = table
    counts = [row.get("num_collapsed", 0) for row in rows]
    if not any(counts):
        return table
    return title, [*header, "collapsed"], [[*line, str(n)] for line, n in zip(cells, counts, strict=True)]


def headline(summary: Mapping[str, Any]) -> str:
    """The best configuration in one sentence, and whether its lead over the best baseline is established."""
    winner = summary["winner"]
    if winner is None:
        return "No trial has finished yet."
    values = [f"{k} {number(winner[k])}" for k in ("lam", "rho", "lr", "weight_decay") if winner[k] is not None]
    level = level_name(summary["target_sparsity"])
    best = f"Best: {', '.join([winner['arm'], *values]).replace('weight_decay', 'weight decay')}"
    if "test" not in winner:
        over = "1 seed" if summary["num_search_seeds"] == 1 else f"mean of {summary['num_search_seeds']} seeds"
        return f"{best}: validation {summary['objective']} {winner['value']:.3f} ({over}) at sparsity {level}"
    test = winner["test"][level]
    best += f": test {summary['objective']} {with_spread(test)} (n = {test['n']}) at sparsity {level}"
    if (lead := winner.get("against_baseline")) is None:
        return best
    compared = f"{best}; {lead['difference']:+.3f} against {winner['baseline']}, the best without a regularizer"
    if lead["n"] < MIN_SEEDS:
        return f"{compared} (n = {lead['n']} paired seeds are too few to call it a finding; {MIN_SEEDS} are needed)"
    return f"{compared} (95% interval {interval(lead)}, p = {lead['p']:.2g}, n = {lead['n']} paired seeds)"


def as_tables(summary: Mapping[str, Any]) -> RenderableType:
    """For a terminal."""
    parts: list[RenderableType] = []
    for title, header, rows in tabulate(summary):
        table = Table(box=None, pad_edge=False)
        for i, name in enumerate(header):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        parts += [Text(title, style="bold"), table, ""]
    for warned in summary.get("warnings", ()):
        parts.append(Text(f"{warned['arm']} {warned['trial']}: {warned['warning']}", "yellow"))
    for failure in summary["failures"]:
        parts.append(Text(f"{failure['arm']} {failure['trial']}: {failure['status']}: {failure['reason']}", "yellow"))
    return Group(*parts, Text(headline(summary), style="bold green"))


def as_markdown(summary: Mapping[str, Any]) -> str:
    """For MLflow's description of the parent run, and for README files."""
    parts = [f"**{headline(summary)}**"]
    for title, header, rows in tabulate(summary):
        lines = [header, ["---"] * len(header), *rows]
        parts.append(f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    if warnings := summary.get("warnings"):
        parts.append("\n".join(f"- {row['arm']} {row['trial']}: {row['warning']}" for row in warnings))
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary["counts"].items()))
    parts.append(f"Trials: {counts}; {summary['seconds']:g} s of training in all.")
    return "\n\n".join(parts)
