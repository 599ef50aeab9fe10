"""Where a sweep stands, from its folder alone: whoever sees the folder can ask, on any host."""

import time
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from service.process import sweeps_command
from service.records.state import RETRIED, Records, TrialRecord
from service.views.tables import by_arm, describe
from trainables.config import TrialConfig

__all__ = ["as_text", "status_of"]


def status_of(folder: Path) -> dict[str, Any]:
    """The sweep's state: "running" (a process has it), "complete", or "stopped" (the same command goes on).

    `process` says who runs it, `phases` counts trials by status beside how many are `planned`, `running` and `failed`
    have a row a trial, `best` is the configuration with the highest mean objective of the search (validation), `idle`
    the seconds since the journal's last line.
    """
    records = Records.replay(folder)
    process = Records.holder(folder)
    complete = records.summary and records.summary["complete"] and all(t.done for t in records.trials.values())
    phases: dict[str, dict[str, int]] = {}
    for phase in ("search", "confirm"):
        statuses = (trial.status for trial in records.trials.values() if trial.phase == phase)
        counts = Counter("cut_off" if status == "running" and not process else status for status in statuses)
        planned = records.last_run.get(f"num_{phase}", sum(counts.values()))
        phases[phase] = {"planned": planned, **dict(sorted(counts.items()))}
    configurations = [trials for group in by_arm(records.finished("search")).values() for trials in group]
    best = max(configurations, key=mean_objective, default=None)
    return {
        "sweep": folder.name,
        "state": "running" if process else "complete" if complete else "stopped",
        "process": process,
        "idle": time.time() - (folder / "events.jsonl").stat().st_mtime,
        "phases": phases,
        "running": [
            {
                "trial": t.key,
                "arm": t.arm,
                "epoch": t.evaluations[-1]["epoch"] if t.evaluations else 0,
                "of": epochs_of(t),
            }
            for t in records.trials.values()
            if process and t.status == "running"
        ],
        "failed": [
            {"trial": t.key, "arm": t.arm, "status": t.status, "reason": t.reason}
            for t in records.trials.values()
            if t.done and t.status != "finished"
        ],
        "warnings": [
            {"trial": t.key, "arm": t.arm, "warning": text} for t in records.trials.values() for text in t.warnings
        ],
        "best": best
        and {
            **describe(best[0]),
            "metric": f"{best[0].objective}_pruned",
            "value": mean_objective(best),
            "num_seeds": len(best),
        },
        "command": records.last_run.get("command"),
    }


def mean_objective(trials: list[TrialRecord]) -> float:
    return fmean(trial.report[f"{trial.objective}_pruned"] for trial in trials)


def epochs_of(trial: TrialRecord) -> int:
    """The epochs of all rounds of its pruning schedule, as its evaluations count them."""
    from trainables.pruning_schedule import num_epochs  # imports torch

    return num_epochs(TrialConfig.model_validate(trial.config))


def as_text(status: dict[str, Any], runs: Path) -> Group:
    """The status as people read it."""
    from service.views.tables import number

    process = f" ({status['process']}; last update {status['idle']:.0f} s ago)" if status["process"] else ""
    parts: list[Any] = [Text(f"{status['sweep']}: {status['state']}{process}")]
    for phase, counts in status["phases"].items():
        others = {name: count for name, count in counts.items() if name not in ("planned", "finished")}
        line = f"  {phase:8s} {counts.get('finished', 0)} of {counts['planned']} finished"
        parts.append(Text(line + "".join(f", {count} {name.replace('_', ' ')}" for name, count in others.items())))
    if best := status["best"]:
        arguments = "".join(f", {name} {number(best[name])}" for name in ("lam", "rho") if best[name] is not None)
        parts.append(
            Text(
                f"  best     {best['metric']} {best['value']:.4f} in the search (validation, seeds: "
                f"{best['num_seeds']}): {best['arm']}{arguments} (trial {best['trial']})"
            )
        )
    for title, columns in (
        ("running", ("trial", "arm", "epoch", "of")),
        ("failed", ("trial", "arm", "status", "reason")),
        ("warnings", ("trial", "arm", "warning")),
    ):
        if not status[title]:
            continue
        table = Table(box=None, pad_edge=False, title=f"\n{title}", title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in status[title]:
            table.add_row(*(str(row[column]) for column in columns))
        parts.append(table)
    if any(row["status"] in RETRIED for row in status["failed"]):
        command = sweeps_command("retry", status["sweep"], runs=runs)
        parts.append(Text(f"\nMake them again: {command}"))
    return Group(*parts)
