"""`python -m benchmarks.digits_methods`: every optimizer with every regularizer on digits, and the page about it.

Runs sweeps/digits_methods.py and rewrites the study's tables in docs/methods-on-digits.md. Without local records it
continues from those committed in benchmarks/results/. --export writes the compact records and the page without running
anything; --write writes the page alone.
"""

import argparse
import gzip
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks._measure import RESULTS
from service.records.events import EventLog
from service.records.state import State, TrialRecord
from service.records.summary import configurations_by_arm
from service.search.space import make_arms
from service.statistics import compare, holm, interval_of_mean
from service.views.figures import COLOURS, label_levels, sparsity_axes
from service.views.tables import number
from sweeps import digits_methods
from trainables.config import hyperparameters

SWEEP = digits_methods.SWEEP
PAGE = Path(__file__).parents[1] / "docs" / "methods-on-digits.md"
START = "<!-- study: written by python -m benchmarks.digits_methods -->"
END = "<!-- study end -->"
KEPT_EVENTS = ("sweep", "change", "search_state", "start", "end", "pruned")
ALPHA = 0.05

# Planned before the first trial; see "What was planned" on the page.
METHOD = SWEEP.pruning[0].label
FIRST_OPTIMIZERS = ("sgd", "adamw", "sam", "s2sam", "cram", "sfw")
PLANNED = [
    *(((optimizer, "wcr"), (optimizer, "none")) for optimizer in FIRST_OPTIMIZERS),
    *(((optimizer, "wcr"), (optimizer, "l1")) for optimizer in FIRST_OPTIMIZERS),
    *(((optimizer, "wcr"), (optimizer, "hoyer_square")) for optimizer in FIRST_OPTIMIZERS),
    *(((optimizer, "none"), ("sgd", "none")) for optimizer in ("sam", "s2sam", "cram")),
]
# Planned after the results of the others were known, before the first trial of these arms. Corrected apart.
PLANNED_LATER = [
    *(((optimizer, "none"), ("sam", "none")) for optimizer in ("friendly_sam", "safe")),
    *(((optimizer, "none"), ("sgd", "none")) for optimizer in ("friendly_sam", "safe")),
    *(((optimizer, "wcr"), (optimizer, "none")) for optimizer in ("friendly_sam", "safe")),
    (("sgd", "weight_factorization"), ("sgd", "none")),
    (("sgd", "weight_factorization"), ("sgd", "l1")),
    (("sgd", "weight_factorization"), ("sgd", "hoyer_square")),
]


def committed(name: str) -> Path:
    return RESULTS / f"digits-methods-{name}.gz"


def export(folder: Path) -> None:
    """Write what continuing and reporting need (outcomes and search state), without paths of this machine."""
    entries = [entry for entry, _ in EventLog.read(folder / "events.jsonl") if entry["event"] in KEPT_EVENTS]
    lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
    committed("events.jsonl").write_bytes(gzip.compress(lines.encode(), mtime=0))
    committed("study.log").write_bytes(gzip.compress((folder / "study.log").read_bytes(), mtime=0))


def restore(folder: Path) -> None:
    """Copy the committed records to `folder` if it has none."""
    if (folder / "events.jsonl").exists() or not committed("events.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("study.log", "events.jsonl"):
        (folder / name).write_bytes(gzip.decompress(committed(name).read_bytes()))


# ---- the page ------------------------------------------------------------------------------------------------------


def confirmed(state: State) -> dict[tuple[str, str], list[TrialRecord]]:
    """(optimizer, regularizer) -> the finished confirmation trials of its best configuration, ordered by seed."""
    configurations = [trials for group in configurations_by_arm(state.finished("confirm")).values() for trials in group]
    return {(trials[0].config["optimizer"], trials[0].config["regularizer"]): trials for trials in configurations}


def values(trials: Sequence[TrialRecord], sparsity: float) -> dict[int, float]:
    """Seed -> test accuracy after pruning at `sparsity`."""
    return {trial.config["seed"]: trial.at(sparsity, "acc", "test", METHOD) for trial in trials}  # type: ignore[misc]


def mean_on_validation(trials: Sequence[TrialRecord], sparsity: float) -> float:
    return statistics.fmean(trial.at(sparsity, "acc", "curve", METHOD) or 0.0 for trial in trials)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows))


def with_interval(found: Sequence[float]) -> str:
    mean, interval = statistics.fmean(found), interval_of_mean(found)
    if interval is None:
        return f"{mean:.3f}"
    return f"{mean:.3f} [{max(0.0, interval[0]):.3f}, {min(1.0, interval[1]):.3f}]"


def method_table(arms: dict[tuple[str, str], list[TrialRecord]], levels: Sequence[float]) -> str:
    target = SWEEP.trial.target_sparsity
    header = ["optimizer", "regularizer", "lam", "rho", "lr", "weight decay", "n", *(f"{level:g}" for level in levels)]
    rows = []
    ordered = sorted(arms.items(), key=lambda item: -mean_on_validation(item[1], target))
    for (optimizer, regularizer), trials in ordered:
        config = trials[0].config
        settings = [number(value) for value in hyperparameters(config).values()]
        cells = [with_interval(list(values(trials, level).values())) for level in levels]
        rows.append([optimizer, regularizer, *settings, str(len(trials)), *cells])
    return table(header, rows)


def comparison_table(
    arms: dict[tuple[str, str], list[TrialRecord]],
    planned: Sequence[tuple[tuple[str, str], tuple[str, str]]] = PLANNED,
) -> str:
    """Planned comparisons at the target sparsity, with Holm's correction over all of them."""
    target, found = SWEEP.trial.target_sparsity, []
    for ours, theirs in planned:
        if (
            ours in arms
            and theirs in arms
            and (row := compare(values(arms[ours], target), values(arms[theirs], target)))
        ):
            found.append((ours, theirs, row))
    corrected = holm([row["p"] for *_, row in found])
    rows = []
    for (ours, theirs, row), p in zip(found, corrected, strict=True):
        low, high = row["interval"] or (math.nan, math.nan)
        verdict = "no" if p >= ALPHA else "better" if row["difference"] > 0 else "worse"
        rows.append(
            [
                " + ".join(ours),
                " + ".join(theirs),
                str(row["n"]),
                f"{row['difference']:+.3f}",
                f"{low:+.3f} to {high:+.3f}",
                f"{row['p']:.2g}",
                f"{p:.2g}",
                verdict,
            ]
        )
    return table(["arm", "against", "n", "difference", "95% interval", "p", "p (Holm)", "established"], rows)


def budget(state: State) -> str:
    trials = [trial for trial in state.trials.values() if trial.done]
    search = sum(trial.phase == "search" for trial in trials)
    hours = sum(trial.report.get("seconds") or 0.0 for trial in trials) / 3600
    failed = sum(trial.status != "finished" for trial in trials)
    planned = len(make_arms(SWEEP)) * (SWEEP.num_trials * SWEEP.num_search_seeds + SWEEP.num_seeds)
    progress = "" if len(trials) >= planned else f"**Not complete:** {len(trials)} of {planned} trials have run. "
    return (
        f"{progress}Search: {search} trials (planned: {SWEEP.num_trials} configurations x {SWEEP.num_search_seeds} "
        f"seeds per arm). Confirmation: {len(trials) - search} trials. They took {hours:.1f} core hours; "
        f"{failed or 'none'} of them diverged or failed. "
        f"Commit of the code: {state.header['software']['git_commit'][:10]}."
    )


def draw(arms: dict[tuple[str, str], list[TrialRecord]], levels: Sequence[float]) -> Figure:
    """A panel for each optimizer, with a line and 95% interval for each regularizer and a dot for each seed."""
    figure = Figure(figsize=(16, 7.5), layout="constrained")
    grid = figure.subfigures(2, 4)
    for panel, optimizer in zip(grid.flat, SWEEP.optimizer, strict=True):
        axes = sparsity_axes(panel, "test accuracy")
        for index, regularizer in enumerate(SWEEP.regularizer):
            if (trials := arms.get((optimizer, regularizer))) is None:
                continue
            densities = [1 - level for level in levels]
            seeds = [list(values(trials, level).values()) for level in levels]
            style = {"color": COLOURS[index], "label": regularizer}
            axes.plot(densities, [statistics.fmean(column) for column in seeds], marker="o", markersize=3, **style)
            bands = [interval_of_mean(column) or (column[0], column[0]) for column in seeds]
            axes.fill_between(densities, *zip(*bands, strict=True), color=COLOURS[index], alpha=0.15, linewidth=0)
            for density, column in zip(densities, seeds, strict=True):
                axes.plot([density] * len(column), column, ".", color=COLOURS[index], alpha=0.25, markersize=3)
        label_levels(axes, levels)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_ylim(0, 1.02)
        axes.set_title(optimizer)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, loc="lower left")
    return figure


def section(state: State) -> str:
    """The generated part of the page."""
    arms = confirmed(state)
    levels = sorted({0.0, *SWEEP.trial.sparsities, SWEEP.trial.target_sparsity})
    parts = [budget(state)]
    if arms:
        parts += [
            f"Test accuracy by sparsity: mean and 95% interval over n unseen seeds, ordered by validation accuracy "
            f"at {SWEEP.trial.target_sparsity:g}.",
            method_table(arms, levels),
            "![test accuracy against sparsity, a panel for each optimizer](methods-on-digits.png)",
            f"The planned comparisons: paired differences of test accuracy at {SWEEP.trial.target_sparsity:g}.",
            comparison_table(arms),
        ]
        if any(ours in arms for ours, _ in PLANNED_LATER):
            parts += [
                "The comparisons that were planned later, with a correction of their own:",
                comparison_table(arms, PLANNED_LATER),
            ]
    return "\n\n".join(parts)


def write(folder: Path) -> None:
    state = State.read(folder)
    before, _, rest = PAGE.read_text().partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n\n{section(state)}\n\n{END}{after}")
    if arms := confirmed(state):
        levels = sorted({0.0, *SWEEP.trial.sparsities, SWEEP.trial.target_sparsity})
        draw(arms, levels).savefig(PAGE.with_suffix(".png"), dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", action="store_true", help="write the compact records and the page; run nothing")
    parser.add_argument("--write", action="store_true", help="rewrite the page from the records; run nothing")
    parser.add_argument("--runs", type=Path, default=SWEEP.runs, help="folder of all records")
    args: Any = parser.parse_args()
    sweep = SWEEP.model_copy(update={"runs": args.runs})
    restore(sweep.folder)
    if not (args.export or args.write):
        sweep.run()
    if not args.write:
        export(sweep.folder)
    write(sweep.folder)


if __name__ == "__main__":
    main()
