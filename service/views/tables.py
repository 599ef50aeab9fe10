"""The result of a sweep as tables, for a terminal and as Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.records.best import PRUNING_DEFAULTS, TRAINING_FIELDS
from service.records.summary import level_name
from service.statistics import MIN_SEEDS
from service.views.costs import cost_table
from sparsity.import_strings import short_name
from trainables.config import HYPERPARAMETERS, NAMED

__all__ = [
    "as_markdown",
    "as_tables",
    "best_table",
    "for_terminal",
    "headline",
    "in_words",
    "left_out_line",
    "num_seeds",
    "number",
    "superseded_line",
    "with_headline",
    "with_spread",
]

ALPHA = 0.05  # significance level


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


# ---- cells ---------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def with_spread(cell: Mapping[str, Any]) -> str:
    """Mean ± standard deviation, or the value of a single seed."""
    return f"{cell['value']:.3f}" + ("" if cell["spread"] is None else f" ± {cell['spread']:.3f}")


def num_seeds(n: int, kind: str = "") -> str:
    return f"{n} {kind}seed{'s' * (n != 1)}"


def interval(comparison: Mapping[str, Any]) -> str:
    if comparison["interval"] is None:
        return "-"
    low, high = comparison["interval"]
    return f"{low:+.3f} to {high:+.3f}"


def significance(comparison: Mapping[str, Any]) -> tuple[str, str]:
    """p after Holm's correction, and whether the difference is significant."""
    p = comparison.get("p_holm")
    if p is None:
        return "-", f"no (fewer than {MIN_SEEDS} seeds)"
    return f"{p:.3g}", "yes" if p < ALPHA else "no"


# ---- the tables of a summary ---------------------------------------------------------------------------------------


def tabulate(summary: Mapping[str, Any]) -> list[TextTable]:
    """All tables of a summary (see `service.records.summary`) that have rows."""
    tables = [
        search_table(summary),
        *(confirmation_table(summary, split) for split in ("validation", "test")),
        comparison_table(summary),
        methods_table(summary),
        other_metrics_table(summary),
        costs_table(summary),
    ]
    return [table for table in tables if table.rows]


def search_table(summary: Mapping[str, Any]) -> TextTable:
    counts = sorted({row["num_seeds"] for row in summary["arms"]}) or [0]
    seeds = num_seeds(counts[-1]) if len(counts) == 1 else f"{counts[0]} to {num_seeds(counts[-1])}"
    spread = f"mean ± standard deviation of {seeds}" if counts[-1] > 1 else seeds
    title = (
        f"Best configuration of each arm (optimizer + regularizer) in the search: "
        f"{summary['objective']} on validation after pruning, {spread}{by_area(summary)}"
    )
    extra = {"configurations": [str(row["num_configurations"]) for row in summary["arms"]]}
    if not all(row["feasible"] for row in summary["arms"]):
        extra["limits"] = [f"violates {flags_of(row)}" if row["violated"] else "met" for row in summary["arms"]]
    return table_by_sparsity(title, summary, summary["arms"], "curve", extra)


def flags_of(row: Mapping[str, Any]) -> str:
    """The options whose limits a configuration violates."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in row["violated"])


def by_area(summary: Mapping[str, Any]) -> str:
    return f" (best by the {summary['goal']})" if summary["area"] else ""


def confirmation_table(summary: Mapping[str, Any], split: str) -> TextTable:
    use = {"validation": "it selects the winner", "test": "it is read once and selects nothing"}[split]
    title = (
        f"Confirmation on unseen seeds: {summary['objective']} on {split} after pruning, "
        f"mean ± standard deviation ({use})"
    )
    extra = {"seeds": [str(len(row["seeds"])) for row in summary["confirmed"]]}
    return table_by_sparsity(title, summary, summary["confirmed"], split, extra)


def table_by_sparsity(
    title: str,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    split: str,
    extra: Mapping[str, Sequence[str]],
) -> TextTable:
    """A row for each configuration, with its objective at each sparsity.

    Args:
        title: The table's title.
        summary: The summary that the rows are from.
        rows: The configurations.
        split: The field of a row that has the objective by sparsity.
        extra: Further columns by title.
    """
    columns = dict(extra)
    if summary["area"]:
        columns["area"] = [f"{row['value']:.3f}" for row in rows] if split != "test" else [mean_area(r) for r in rows]
    for level in decisive_levels(summary):
        columns[level_title(summary, level)] = [with_spread(row[split][level]) for row in rows]
    if any(row["num_collapsed"] for row in rows):
        columns["collapsed trials"] = [str(row["num_collapsed"]) for row in rows]
    names = searched_names(summary)
    body = [
        [*configuration(row, names), *(column[index] for column in columns.values())] for index, row in enumerate(rows)
    ]
    return TextTable(title, [*header(names), *columns], body)


def mean_area(row: Mapping[str, Any]) -> str:
    return f"{fmean(row['test_values']):.3f}"


def decisive_levels(summary: Mapping[str, Any]) -> list[str]:
    """The sparsities that all trials have by the method that decides the objective."""
    return summary["levels"].get(summary["method"], [])


def level_title(summary: Mapping[str, Any], level: str) -> str:
    return f"{summary['objective']} {'dense' if level == '0' else f'at {level}'}"


def methods_table(summary: Mapping[str, Any]) -> TextTable:
    """The same networks pruned by each method; empty if there is one method."""
    split = "test" if summary["confirmed"] else "curve"
    rows = summary["confirmed"] or summary["arms"]
    levels = sorted({level for of_method in summary["levels"].values() for level in of_method}, key=float)
    names = searched_names(summary)
    body = []
    for row in rows if len(summary["levels"]) > 1 else ():
        curves = {summary["method"]: row[split]} | {label: found[split] for label, found in row["others"].items()}
        for label, curve in curves.items():
            cells = [with_spread(curve[level]) if level in curve else "-" for level in levels]
            body.append([*configuration(row, names), label, *cells])
    where = "test" if summary["confirmed"] else "validation"
    title = (
        f"The same trained networks pruned in {len(summary['levels'])} ways (the configurations are the best ones by "
        f"{summary['method']}): {summary['objective']} on {where}"
    )
    return TextTable(title, [*header(names), "pruning", *(level_title(summary, level) for level in levels)], body)


def comparison_table(summary: Mapping[str, Any]) -> TextTable:
    title = f"Each arm minus the same optimizer without a regularizer: {summary['goal']} on test, paired by seed"
    rows = [
        [row["arm"], str(against["n"]), f"{against['difference']:+.3f}", interval(against), *significance(against)]
        for row in summary["confirmed"]
        if (against := row.get("against"))
    ]
    return TextTable(title, ["arm", "seeds", "difference", "95% interval", "p (Holm)", "significant"], rows)


def other_metrics_table(summary: Mapping[str, Any]) -> TextTable:
    described = summary["confirmed"] or summary["arms"]
    metrics = described[0]["metrics"] if described else {}
    levels = list(next(iter(metrics.values()), ()))
    split = "test, mean ± standard deviation" if summary["confirmed"] else "validation"
    names = searched_names(summary)
    rows = [
        [*configuration(row, names), level, *(with_spread(row["metrics"][name][level]) for name in metrics)]
        for row in described
        for level in levels
    ]
    title = f"Other metrics of the same configurations at sparsity {' and '.join(levels)} ({split})"
    return TextTable(title, [*header(names), "sparsity", *metrics], rows)


def costs_table(summary: Mapping[str, Any]) -> TextTable:
    exported = summary.get("exported", {"trial": "", "costs": []})
    header, rows = cost_table(exported["costs"])
    title = f"The winner's network (trial {exported['trial']}): weights, file sizes, and latency on one CPU thread"
    return TextTable(title, header, rows)


def searched_names(summary: Mapping[str, Any]) -> list[str]:
    """The arguments with a column: lam and rho always, others if they differ between rows."""
    rows = [*summary["arms"], *summary["confirmed"]]
    return ["lam", "rho", *(name for name in ("lr", "weight_decay") if len({row[name] for row in rows}) > 1)]


def header(names: Sequence[str]) -> list[str]:
    return ["arm", *(name.replace("_", " ") for name in names)]


def configuration(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [row["arm"], *(number(row[name]) for name in names)]


def in_words(row: Mapping[str, Any]) -> str:
    """The arm of a row and its values."""
    names = [name for name in HYPERPARAMETERS if row[name] is not None]
    return ", ".join([row["arm"], *(f"{name.replace('_', ' ')} {number(row[name])}" for name in names)])


def headline(summary: Mapping[str, Any]) -> str:
    """The winner in one sentence, and whether its lead over the best arm without a regularizer is significant."""
    winner = summary["winner"]
    if winner is None:
        return "No trial has finished yet."
    level, objective = level_name(summary["target_sparsity"]), summary["objective"]
    best = f"Best: {in_words(winner)}"
    infeasible = f"; no configuration meets the limits, this one violates {flags_of(winner)}" * (not winner["feasible"])
    if "test" not in winner:
        seeds = num_seeds(winner["num_seeds"])
        where = f"{summary['goal']} {winner['value']:.3f}"
        if not summary["area"]:
            where = f"{objective} {winner['value']:.3f} at sparsity {level}"
        return f"{best}: validation {where} ({seeds} of the search{infeasible})"
    test = winner["test"][level]
    best += (
        f": test {objective} {with_spread(test)} at sparsity {level} ({num_seeds(test['n'], 'unseen ')}{infeasible})"
    )
    if (lead := winner.get("against_baseline")) is None:
        return best
    measure = f" in {summary['goal']}" if summary["area"] else ""
    best += (
        f"; {lead['difference']:+.3f}{measure} compared with {winner['baseline']}, the best arm without a regularizer"
    )
    seeds = num_seeds(lead["n"], "paired ")
    if lead["n"] < MIN_SEEDS:
        return f"{best} ({seeds}, too few to call the difference significant: {MIN_SEEDS} are needed)"
    return f"{best} (95% interval {interval(lead)}, p = {lead['p']:.2g}, {seeds})"


def with_headline(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary as `--json` prints it."""
    return {"headline": headline(summary), **summary}


def as_tables(summary: Mapping[str, Any], *, tables: bool = True) -> RenderableType:
    """The tables (unless left out), warnings, failures and headline of a summary, for a terminal."""
    parts: list[RenderableType] = []
    for text_table in tabulate(summary) if tables else ():
        table = for_terminal(text_table.header, text_table.rows)
        parts += [Text(text_table.title, style="bold"), table, ""]
    for row in summary["warnings"]:
        parts.append(Text(f"{row['arm']}, trial {row['trial']}: {row['warning']}", "yellow"))
    for row in summary["failures"]:
        status = row["status"].replace("_", " ")
        parts.append(Text(f"{row['arm']}, trial {row['trial']}: {status}: {row['reason']}", "yellow"))
    if summary["num_left_out"]:
        parts.append(Text(left_out_line(summary), "yellow"))
    if summary.get("superseded"):
        parts.append(Text(superseded_line(summary), "yellow"))
    return Group(*parts, Text(headline(summary), style="bold green"))


def for_terminal(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column holds words and the others numbers."""
    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def left_out_line(summary: Mapping[str, Any]) -> str:
    num = summary["num_left_out"]
    trials = "1 recorded trial does" if num == 1 else f"{num} recorded trials do"
    return f"{trials} not fit the sweep since it was changed; the tables do not count {'it' if num == 1 else 'them'}."


def superseded_line(summary: Mapping[str, Any]) -> str:
    shown = [f"{in_words(row)} ({num_seeds(len(row['seeds']), 'unseen ')})" for row in summary["superseded"]]
    before = f"Confirmed before its arm selected another configuration: {'; '.join(shown)}."
    return f"{before} The tables do not count {'it' if len(shown) == 1 else 'them'}."


def as_markdown(summary: Mapping[str, Any]) -> str:
    """The same as Markdown, for MLflow's description of the sweep and for README files."""
    parts = [f"**{headline(summary)}**"]
    for table in tabulate(summary):
        escaped = [[cell.replace("|", r"\|") for cell in row] for row in table.rows]
        lines = [table.header, ["---"] * len(table.header), *escaped]
        parts.append(f"{table.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    if warnings := summary["warnings"]:
        parts.append("\n".join(f"- {row['arm']}, trial {row['trial']}: {row['warning']}" for row in warnings))
    if summary["num_left_out"]:
        parts.append(left_out_line(summary))
    if summary.get("superseded"):  # summaries of earlier versions lack it
        parts.append(superseded_line(summary))
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(summary["counts"].items()))
    parts.append(f"Trials: {counts}; {summary['seconds']:g} s of training in total.")
    return "\n\n".join(parts)


# ---- the best of all sweeps ----------------------------------------------------------------------------------------


def best_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The rows of `service.records.best.best` as a table; settings that are the same everywhere are left out."""
    varying = [name for name in TRAINING_FIELDS if len({json.dumps(row[name]) for row in rows}) > 1]
    varying += [name for name, default in PRUNING_DEFAULTS.items() if any(row[name] != default for row in rows)]
    varying = [name for name in varying if name != "criterion_source"]
    texts = ["architecture", "dataset", "arm", *(n for n in varying if n not in ("architecture", "dataset"))]
    numbers = HYPERPARAMETERS
    table = Table(box=None, pad_edge=False)
    for name in (*texts, "sparsity", *numbers, "metric", "validation", "macs_left", "seeds", "sweep", "trial"):
        right = name in ("sparsity", *numbers, "macs_left", "max_epochs", "batch_size", "train_size", "eval_size")
        table.add_column(name.replace("_", " "), justify="right" if right else "left")
    for row in rows:
        cells = [setting(name, row[name]) for name in texts]
        cells += [level_name(row["sparsity"]), *(number(row[name]) for name in numbers)]
        cells += [row["metric"], with_spread(row), number(row["macs_left"])]
        table.add_row(*cells, f"{row['n']} {row['seeds']}", row["sweep"], row["trial"])
    title = "Best configuration of each arm (optimizer + regularizer) after pruning to each sparsity"
    seeds = "seeds: unseen = confirmed on seeds that the search did not use; search = the search's own seeds"
    return Group(Text(title, style="bold"), table, Text(seeds, style="dim"))


def setting(name: str, value: object) -> str:
    """A setting as the command line takes it, e.g. width=8 depth=1 for the arguments of a network."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={each}" for key, each in value.items()) or "-"
    if value is None:
        return "all" if name in ("train_size", "eval_size") else "-"
    return short_name(value) if name in (*NAMED, "criterion") and isinstance(value, str) else str(value)
