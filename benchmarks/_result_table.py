"""Results of jobs as a compact table that is committed, and back, so that another machine can continue."""

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._jobs import Job, append
from service.records.events import EventLog

__all__ = ["export", "restore"]

SPLITS = ("validation", "test")


def export(lines: Path, table: Path, labels: Sequence[str], levels: Sequence[float], more: Sequence[str] = ()) -> int:
    """Write the results of jobs as gzipped CSV, a row for each job in the order of their labels.

    The same results give the same bytes.

    Args:
        lines: What `benchmarks._jobs.run` wrote.
        table: The file to write.
        labels: The labels that identify a job; a job may lack some.
        levels: The sparsities whose accuracies are columns, such as `validation 0.96`. A diverged training has none.
        more: Further results, a column each.

    Returns:
        The number of rows.
    """
    columns = [(split, f"{level:g}") for split in SPLITS for level in levels]
    entries = [entry for entry, _ in EventLog.read(lines)]
    entries.sort(key=lambda entry: [entry.get(name, 0.0) for name in labels])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*labels, *more, *(f"{split} {level}" for split, level in columns), "cpu_s"])
    for entry in entries:
        accuracies = [entry.get(split, {}).get(level, "") for split, level in columns]
        writer.writerow([*(entry.get(name, "") for name in (*labels, *more)), *accuracies, entry["cpu_s"]])
    table.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    return len(entries)


def restore(jobs: Iterable[Job], table: Path, lines: Path, labels: Sequence[str]) -> int:
    """Append the jobs of a table to `lines`, for those that are missing there, so that they are not run again.

    Returns:
        The number of jobs that were added.
    """
    if not table.exists():
        return 0
    with gzip.open(table, "rt", newline="") as file:
        rows = {tuple(row[name] for name in labels): row for row in csv.DictReader(file)}
    done = {entry["job"] for entry, _ in EventLog.read(lines)}
    num = 0
    for job in jobs:
        row = rows.get(tuple(str(job.labels.get(name, "")) for name in labels))
        if row is not None and job.name not in done:
            append(lines, "job", job=job.name, key=job.key, **job.labels, **results_of(row, labels))
            num += 1
    return num


def results_of(row: dict[str, str], labels: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        split, _, level = name.partition(" ")
        if split in SPLITS and value:
            found.setdefault(split, {})[level] = float(value)
        elif split not in SPLITS and name not in labels and value:
            found[name] = float(value)
    return found if SPLITS[0] in found else {**found, "diverged": "no accuracy in the table"}
