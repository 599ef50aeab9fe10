"""What came out: one summary value, made from the records, and its tables for terminal, MLflow and papers."""

import shutil
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sweeps._records import Records, TrialRecord, mean_and_spread

__all__ = ["as_markdown", "as_tables", "make_console", "summarize"]


def make_console() -> Console:
    """A terminal's own width; elsewhere (a file, a pipe) wide enough that no line breaks."""
    console = Console(highlight=False)
    if console.is_dumb_terminal:
        console.size = shutil.get_terminal_size()  # Rich takes 80 columns there, and no other width, unless told both
    if not console.is_terminal:
        console.width = 160
    return console


def print_whole(console: Console, renderable: RenderableType) -> None:
    """Print tables at their own width, also in a narrower terminal: a line that wraps can be read, one cut off not."""
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
        "rho": config["opt"].get("rho"),
        "trial": trial.key,
    }


def without_seed(config: Mapping[str, Any]) -> str:
    return repr(sorted((k, v) for k, v in config.items() if k not in ("seed", "read_test")))


def summarize(records: Records, *, objective: str, target_sparsity: float, complete: bool) -> dict[str, Any]:
    """The sweep's result so far.

    arms: the best search trial of each arm by the objective at the target sparsity (validation, one seed), with its
    curve. metrics: what else was measured, dense and at the target sparsity. confirmed: configurations trained again on
    unseen seeds; mean, spread (sample standard deviation) and n over those seeds alone, for validation and test.
    winner: the best of the confirmed by *validation*, so that its test numbers were not chosen by looking at them;
    without a confirmation, the best search trial.
    """

    def value(trial: TrialRecord) -> float:
        return trial.report[f"{objective}_pruned"]

    search = records.finished("search")
    measured = search[0].curve if search else []
    metrics = [name for name in (measured[0] if measured else ()) if name not in ("sparsity", "loss", objective)]
    ends = list(dict.fromkeys((0.0, target_sparsity)))
    arms: dict[str, list[TrialRecord]] = {}
    for trial in sorted(search, key=lambda t: t.number):
        arms.setdefault(trial.arm, []).append(trial)
    rows = []
    for trials in arms.values():
        top = max(trials, key=value)
        curve = {level_name(p["sparsity"]): p[objective] for p in top.curve}
        others = {name: {level_name(s): mean_and_spread([top.at(s, name)]) for s in ends} for name in metrics}  # type: ignore[list-item]
        rows.append(
            {**describe(top), "num_trials": len(trials), "curve": curve, "value": value(top), "metrics": others}
        )

    confirmed: dict[str, list[TrialRecord]] = {}
    for trial in sorted(records.finished("confirm"), key=lambda t: t.number):
        confirmed.setdefault(without_seed(trial.config), []).append(trial)
    confirmations = []
    for trials in confirmed.values():
        levels = [p["sparsity"] for p in trials[0].curve]
        validation, test = (
            {level_name(s): mean_and_spread([t.at(s, objective, split) for t in trials]) for s in levels}  # type: ignore[misc]
            for split in ("curve", "test")
        )
        confirmations.append(
            {
                **describe(trials[0]),
                "seeds": [t.config["seed"] for t in trials],
                "validation": validation,
                "test": test,
                "metrics": {
                    name: {level_name(s): mean_and_spread([t.at(s, name, "test") for t in trials]) for s in ends}  # type: ignore[misc]
                    for name in metrics
                },
                "value": validation[level_name(target_sparsity)]["value"],
                "checkpoint_trial": trials[0].key,
            }
        )
    confirmations.sort(key=lambda row: -row["value"])
    winner = None
    if confirmations:
        winner = confirmations[0]
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
        "counts": dict(Counter(t.status for t in trials)),
        "seconds": round(sum(t.report.get("seconds") or 0.0 for t in trials), 1),
        "arms": rows,
        "confirmed": confirmations,
        "winner": winner,
        "failures": [
            {"trial": t.key, "arm": t.arm, "status": t.status, "reason": t.reason}
            for t in trials
            if t.done and t.status != "finished"
        ],
    }


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def with_spread(cell: Mapping[str, Any]) -> str:
    return f"{cell['value']:.3f}" + ("" if cell["spread"] is None else f" ± {cell['spread']:.3f}")


def tabulate(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows of text) of each table."""
    levels, objective = summary["levels"], summary["objective"]
    keys = ["arm", "lam", "rho"]
    tables = []
    if summary["arms"]:
        title = f"Best trial of each arm: {objective} after one-shot pruning at each sparsity (validation, 1 seed)"
        rows = [
            [row["arm"], number(row["lam"]), number(row["rho"]), str(row["num_trials"])]
            + [f"{row['curve'][level]:.3f}" for level in levels]
            for row in summary["arms"]
        ]
        tables.append((title, [*keys, "trials", *levels], rows))
    for split in ("validation", "test"):
        if summary["confirmed"]:
            n = max(len(row["seeds"]) for row in summary["confirmed"])
            note = "read once" if split == "test" else "what the winner is chosen by"
            rows = [
                [row["arm"], number(row["lam"]), number(row["rho"]), str(len(row["seeds"]))]
                + [with_spread(row[split][level]) for level in levels]
                for row in summary["confirmed"]
            ]
            title = (
                f"Confirmed on unseen seeds: {objective}, {split} split ({note}), mean ± standard deviation, n = {n}"
            )
            tables.append((title, [*keys, "n", *levels], rows))
    described = summary["confirmed"] or summary["arms"]
    metrics = list(described[0]["metrics"]) if described else []
    if metrics:
        split = "test split, mean ± standard deviation" if summary["confirmed"] else "validation, 1 seed"
        ends = list(described[0]["metrics"][metrics[0]])
        rows = [
            [row["arm"], number(row["lam"]), number(row["rho"]), end]
            + [with_spread(row["metrics"][name][end]) for name in metrics]
            for row in described
            for end in ends
        ]
        tables.append(
            (
                f"Further metrics of these at sparsity {' and '.join(ends)} ({split})",
                [*keys, "sparsity", *metrics],
                rows,
            )
        )
    return tables


def headline(summary: Mapping[str, Any]) -> str:
    """The best lam and rho in one sentence."""
    winner = summary["winner"]
    if winner is None:
        return "No trial has finished yet."
    knobs = ", ".join(f"{k} {number(winner[k])}" for k in ("lam", "rho") if winner[k] is not None) or "no lam, no rho"
    level = level_name(summary["target_sparsity"])
    if "test" in winner:
        test = winner["test"][level]
        got = f"test {summary['objective']} {with_spread(test)} (n = {test['n']}) at sparsity {level}"
    else:
        got = f"validation {summary['objective']} {winner['value']:.3f} (1 seed) at sparsity {level}"
    return f"Best: {winner['arm']}, {knobs}: {got}"


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
    for failure in summary["failures"]:
        parts.append(Text(f"{failure['arm']} {failure['trial']}: {failure['status']}: {failure['reason']}", "yellow"))
    return Group(*parts, Text(headline(summary), style="bold green"))


def as_markdown(summary: Mapping[str, Any]) -> str:
    """For MLflow's description of the parent run, and for README files."""
    parts = [f"**{headline(summary)}**"]
    for title, header, rows in tabulate(summary):
        lines = [header, ["---"] * len(header), *rows]
        parts.append(f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary["counts"].items()))
    parts.append(f"Trials: {counts}; {summary['seconds']:g} s of training in all.")
    return "\n\n".join(parts)
