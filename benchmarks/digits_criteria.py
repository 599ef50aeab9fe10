"""`python -m benchmarks.digits_criteria`: which criterion keeps the most accuracy when trained networks are pruned?

Networks of the study's selected configurations (`benchmarks.digits_methods`) are trained on twelve seeds that nothing
else has seen. Each is then pruned by every criterion and scope; a criterion has nothing to tune, so the budgets are
equal. Every training writes its results as a line of benchmarks/results/digits-criteria.jsonl. Trainings with a line
are not repeated. --write makes the section of docs/methods-on-digits.md from these lines.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._jobs import ConfigJob, run
from benchmarks._markdown import Comparison, comparison_table, paragraph, replace_section, table, with_interval
from benchmarks._measure import RESULTS
from benchmarks.digits_ablations import Arms, studied_configs
from benchmarks.digits_methods import PAGE, SWEEP
from service.records.events import EventLog
from trainables.loop import Training, load_task
from trainables.pruning import evaluate_pruned
from trainables.pruning_method import PruningMethod

__all__ = ["ARMS", "COMPARED", "LEVELS", "METHODS", "CriteriaJob", "all_jobs", "comparisons", "section"]

RESULTS_FILE = RESULTS / "digits-criteria.jsonl"
START = "<!-- criteria: written by python -m benchmarks.digits_criteria --write -->"
END = "<!-- criteria end -->"

# Planned before the first training; see "Criteria" on the page.
ARMS = (("sgd", "none"), ("sgd", "hoyer_square"), ("sgd", "wcr"), ("sam", "none"), ("sam", "wcr"))
SEEDS = range(200, 212)  # the study used 0 to 13, the ablations 100 to 111
LEVELS = (0.8, 0.9, 0.96, 0.98)
METHODS = tuple(
    PruningMethod(criterion=criterion, scope=scope)
    for criterion, scope in (
        ("magnitude", "global"),
        ("magnitude", "uniform"),
        ("lamp", "global"),
        ("wanda", "global"),
        ("wanda", "row"),
        ("ria", "global"),
        ("ria", "row"),
        ("compensation", "global"),
        ("snip", "global"),
        ("random", "global"),
    )
)
REFERENCE = METHODS[0].label
COMPARED = ("lamp global", "wanda global", "ria global", "compensation global")
TARGET = f"{SWEEP.trial.target_sparsity:g}"

Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class CriteriaJob(ConfigJob):
    """One training, pruned by every method."""

    def run(self) -> dict[str, Any]:
        """By method, the test accuracy at each sparsity and the number of tensors without a weight left."""
        begin = time.process_time()
        task = load_task(self.config)
        training = Training(task, self.config)
        while not training.finished:
            training.train_to_evaluation(evaluate=False)
        model = training.trained_model().eval()
        methods: dict[str, Any] = {}
        dense = 0.0
        for method in METHODS:
            found = evaluate_pruned(task, model, self.config.pruned_by(method), (0.0, *LEVELS), "test")
            dense = found.metrics[0.0]["acc"]
            methods[method.label] = {
                "acc": {f"{level:g}": round(found.metrics[level]["acc"], 6) for level in LEVELS},
                "empty": {f"{level:g}": sum(not m.any() for m in found.masks[level].values()) for level in LEVELS},
            }
        return {"dense": round(dense, 6), "methods": methods, "cpu_s": round(time.process_time() - begin, 1)}


def all_jobs(arms: Arms, epochs: int | None = None) -> Iterator[CriteriaJob]:
    """Every training, seed by seed, so that an interrupted run has complete pairs."""
    for seed, arm in itertools.product(SEEDS, ARMS):
        changes = {"seed": seed, "read_test": False, **({"max_epochs": epochs} if epochs else {})}
        labels = {"optimizer": arm[0], "regularizer": arm[1], "seed": seed}
        yield CriteriaJob(f"{' + '.join(arm)}/seed={seed}", labels, arms[arm].model_copy(update=changes))


# ---- the page ------------------------------------------------------------------------------------------------------


def of_arm(jobs: Entries, arm: tuple[str, str]) -> list[Mapping[str, Any]]:
    return [job for job in jobs if (job["optimizer"], job["regularizer"]) == arm]


def accuracies(jobs: Entries, label: str, level: str) -> dict[int, float]:
    """Seed -> test accuracy."""
    return {job["seed"]: job["methods"][label]["acc"][level] for job in jobs}


def comparisons(jobs: Entries) -> list[Comparison]:
    """The planned comparisons: what is compared, ours, magnitude's."""
    found = []
    for arm, label in itertools.product(ARMS, COMPARED):
        trained = of_arm(jobs, arm)
        pair = (accuracies(trained, name, TARGET) for name in (label, REFERENCE))
        found.append((f"{' + '.join(arm)}: {label}", *pair))
    return found


def accuracy_table(jobs: Entries) -> str:
    rows = []
    for arm in ARMS:
        if not (trained := of_arm(jobs, arm)):
            continue
        for method in METHODS:
            columns = [list(accuracies(trained, method.label, f"{level:g}").values()) for level in LEVELS]
            empty = statistics.fmean(job["methods"][method.label]["empty"][TARGET] for job in trained)
            cells = [with_interval(column) for column in columns]
            rows.append([" + ".join(arm), method.label, str(len(trained)), *cells, f"{empty:.1f}"])
    return table(["arm", "criterion and scope", "n", *map("{:g}".format, LEVELS), f"empty tensors at {TARGET}"], rows)


def section(jobs: Entries) -> str:
    """The generated part of the page."""
    if not jobs:
        return "Not measured yet."
    minutes = sum(job["cpu_s"] for job in jobs) / 60
    planned = len(ARMS) * len(SEEDS)
    progress = "" if len(jobs) == planned else f"**Not complete:** {len(jobs)} of {planned} trainings have run. "
    return "\n\n".join(
        [
            paragraph(
                f"{progress}{len(jobs)} trainings, {minutes:.0f} CPU minutes. Test accuracy: mean and Student's 95% "
                f"interval over n seeds. The last column counts tensors (of 9) that pruning to {TARGET} empties."
            ),
            accuracy_table(jobs),
            paragraph(
                f"The planned comparisons: paired differences of test accuracy at {TARGET} from global magnitude "
                f"pruning, with exact permutation tests and Holm's correction over all {len(ARMS) * len(COMPARED)}."
            ),
            comparison_table(comparisons(jobs)),
        ]
    )


def write(results: Path, page: Path) -> None:
    """Write the section between the page's markers."""
    jobs = [entry for entry, _ in EventLog.read(results) if entry["event"] == "job"]
    replace_section(page, START, END, section(jobs))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, one thread each (default: 2)")
    parser.add_argument("--epochs", type=int, help="epochs of a training (default: the study's)")
    parser.add_argument("--results", type=Path, default=RESULTS_FILE, help="file with a line for each training")
    parser.add_argument("--runs", type=Path, default=SWEEP.runs, help="folder with the study's records")
    parser.add_argument("--write", action="store_true", help="write the section from the existing lines; train nothing")
    parser.add_argument("--page", type=Path, default=PAGE, help="page that --write writes to")
    args = parser.parse_args(arguments)
    if args.write:
        write(args.results, args.page)
        return 0
    failures = run(all_jobs(studied_configs(args.runs), args.epochs), args.results, num_processes=args.processes)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
