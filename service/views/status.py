"""Where a sweep stands, from its folder alone, so that every host that sees the folder can ask."""

import re
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from service.process import sweeps_command
from service.records.events import EventLog, is_event
from service.records.lock import lock_holder
from service.records.recorder import RETRIED
from service.records.state import EVENTS, State, TrialRecord
from service.records.summary import choose_winner, confirmations, current_summary, level_name
from service.views.tables import in_words, num_seeds
from trainables.config import HYPERPARAMETERS, TrialConfig
from trainables.result import Status

__all__ = ["as_text", "status_of"]

TRIAL = re.compile(rb'"trial": "(\w+)"')
INTERRUPTED = "interrupted"  # a trial recorded as running, although no process runs the sweep


def status_of(folder: Path) -> dict[str, Any]:
    """Where the sweep in a folder stands, as JSON values.

    Returns:
        - sweep: its name
        - state: "running" if a process runs it; "complete"; or "stopped", if the same command would continue it
        - process: the process that runs it, empty without one
        - idle: seconds since the last event
        - phases: for "search" and "confirm", the number of trials `planned` and their number by status; without those
          that confirmed an earlier selection
        - running, failed, warnings: a row for each trial or warning, without those that do not fit the sweep any more
        - best: the configuration with the highest mean objective of the search on validation, None without one
        - confirmed: once the sweep is complete, the winner on unseen seeds with its mean on test, which `report` states
          too; None without a confirmation
        - command: the command line that ran it last

    Raises:
        ValueError: If this version cannot read the records.
    """
    state, process = State.read(folder, evaluations=False), lock_holder(folder)
    summary = current_summary(state)
    trials = [trial for trial in state.trials.values() if not trial.left_out]
    running = [trial for trial in trials if process and trial.status == Status.RUNNING]
    epochs = epochs_done(folder, {trial.key for trial in running})
    return {
        "sweep": folder.name,
        "state": "running" if process else "complete" if summary["complete"] else "stopped",
        "process": process,
        "idle": time.time() - (folder / EVENTS).stat().st_mtime,
        "phases": count_trials(state, summary, bool(process)),
        "running": [{"trial": t.key, "arm": t.arm, "epoch": epochs.get(t.key, 0), "of": epochs_of(t)} for t in running],
        "failed": [
            {"trial": t.key, "arm": t.arm, "status": t.status, "reason": t.reason}
            for t in trials
            if t.done and t.status != Status.FINISHED
        ],
        "warnings": [{"trial": t.key, "arm": t.arm, "warning": text} for t in trials for text in t.warnings],
        "best": best_of_search(summary),
        "confirmed": confirmed_winner(summary) if summary["complete"] else None,
        "command": state.last_run.get("command"),
    }


def count_trials(state: State, summary: Mapping[str, Any], runs: bool) -> dict[str, dict[str, int]]:
    """The number of trials of each phase that are planned, and by status."""
    selected, _ = confirmations(state, summary["arms"])
    trials = {
        "search": [trial for trial in state.trials.values() if trial.phase == "search" and not trial.left_out],
        "confirm": [trial for configuration in selected for trial in configuration],
    }
    found = {}
    for phase, of_phase in trials.items():
        statuses = [trial.status for trial in of_phase]
        counts = Counter(INTERRUPTED if status == Status.RUNNING and not runs else status for status in statuses)
        found[phase] = {
            "planned": state.last_run.get(f"num_{phase}", len(statuses)),
            **dict(sorted(counts.items())),
        }
    return found


def best_of_search(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    best = choose_winner(summary["arms"], [])
    if best is None:
        return None
    names = ("arm", "optimizer", "regularizer", *HYPERPARAMETERS, "trial", "value", "num_seeds")
    metric = f"{summary['objective']}_{'area' if summary['area'] else 'pruned'}"
    return {name: best[name] for name in names} | {"metric": metric}


def confirmed_winner(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    winner, level = summary["winner"] or {}, summary["target_sparsity"]
    test = winner.get("test", {}).get(level_name(level))
    if not test:
        return None
    names = ("arm", "optimizer", "regularizer", *HYPERPARAMETERS)
    found = {name: winner[name] for name in names} | {"trial": winner["checkpoint_trial"]}
    found |= {"metric": summary["objective"], "sparsity": level}
    return {**found, "value": test["value"], "num_seeds": test["n"]}


def epochs_done(folder: Path, keys: Collection[str]) -> dict[str, int]:
    """The last epoch that was evaluated of these trials, without those that have no evaluation."""

    def wanted(line: bytes) -> bool:
        key = TRIAL.search(line)
        return is_event(line, "evaluation") and key is not None and key[1].decode() in keys

    epochs: dict[str, int] = {}
    for event, _ in EventLog.read(folder / EVENTS, wanted=wanted) if keys else ():
        epochs[event["trial"]] = max(event["report"]["epoch"], epochs.get(event["trial"], 0))
    return epochs


def epochs_of(trial: TrialRecord) -> int:
    """The number of epochs that a trial trains for, in all rounds of its pruning schedule."""
    if trial.config["pruning_schedule"] == "one_shot":
        return trial.config["max_epochs"]
    from trainables.pruning_schedule import num_epochs  # imports torch

    return num_epochs(TrialConfig.model_validate(trial.config))


def as_text(status: dict[str, Any], runs: Path) -> Group:
    """The status of a sweep, for a terminal.

    Args:
        status: See `status_of`.
        runs: The folder of all records, for the commands that are shown.
    """
    process = f" ({status['process']}; last update {status['idle']:.0f} s ago)" if status["process"] else ""
    parts: list[Any] = [Text(f"{status['sweep']}: {status['state']}{process}")]
    parts += [Text(phase_line(phase, counts)) for phase, counts in status["phases"].items()]
    if status["best"]:
        parts.append(Text(best_line(status["best"])))
    if status["confirmed"]:
        parts.append(Text(confirmed_line(status["confirmed"])))
    for title, columns in (
        ("running trials", ("trial", "arm", "epoch", "of")),
        ("failed trials", ("trial", "arm", "status", "reason")),
        ("warnings", ("trial", "arm", "warning")),
    ):
        if rows := status[title.split()[0]]:
            table = Table(box=None, pad_edge=False, title=f"\n{title}", title_justify="left")
            for column in columns:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*(str(row[column]) for column in columns))
            parts.append(table)
    if any(row["status"] in RETRIED for row in status["failed"]):
        parts.append(Text(f"\nTo run failed trials again: {sweeps_command('retry', status['sweep'], runs=runs)}"))
    return Group(*parts)


def phase_line(phase: str, counts: dict[str, int]) -> str:
    others = {name: count for name, count in counts.items() if name not in ("planned", Status.FINISHED)}
    finished = f"  {phase:8s} {counts.get(Status.FINISHED, 0)} of {counts['planned']} trials finished"
    return finished + "".join(f", {count} {name.replace('_', ' ')}" for name, count in others.items())


def best_line(best: dict[str, Any]) -> str:
    return (
        f"  best     {in_words(best)}: {best['metric']} {best['value']:.4f} on validation "
        f"({num_seeds(best['num_seeds'])} of the search, trial {best['trial']})"
    )


def confirmed_line(confirmed: dict[str, Any]) -> str:
    seeds = num_seeds(confirmed["num_seeds"], "unseen ")
    return (
        f"  result   {in_words(confirmed)}: {confirmed['metric']} {confirmed['value']:.4f} at sparsity "
        f"{level_name(confirmed['sparsity'])} on test ({seeds}, trial {confirmed['trial']})"
    )
