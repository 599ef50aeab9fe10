"""The progress of a running sweep: a live table in a terminal, one line for each ended trial elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from service.records.state import TrialRecord
from service.views.console import warn
from service.views.durations import in_hours
from service.views.tables import number
from trainables.config import hyperparameters
from trainables.result import Status

if TYPE_CHECKING:
    from service.search.queue import Proposal

__all__ = ["Progress", "seconds_left"]

NUM_BEST = 5  # trials that the live table lists as the best
WIDE = 64  # columns of a terminal that has room for lam and rho in columns of their own
LABEL = 64  # columns of a trial's label in a line; more if one needs more


@dataclass
class Running:
    """A trial that runs."""

    proposal: "Proposal"
    begin: float
    report: Mapping[str, Any] = field(default_factory=dict)  # the last one
    reported: float = 0.0  # when

    def whole(self) -> float | None:
        """The seconds that the whole trial will take, if it goes on as until its last report; None before that."""
        epoch = self.report.get("epoch")
        return (self.reported - self.begin) * self.proposal.num_epochs / epoch if epoch else None


@dataclass(frozen=True)
class Finished:
    """A trial that has finished."""

    arm: str
    values: Mapping[str, float | None]  # lam, rho, ...
    dense: float
    pruned: float


class Progress:
    """Shows the trials of a sweep; a context manager.

    In a terminal, a table shows the running trials, the last updated one at the bottom, the best ones so far and the
    time left. Each trial that ends is printed as a line above it. Dumb terminals, files and pipes get only the lines. A
    quiet console gets only what `say` prints.

    Args:
        console: Where to print.
        title: The sweep's name.
        num_trials: Number of trials of the sweep; an upper bound if it may end early.
        objective: The metric that the search maximizes.
        already_done: Number of trials that ended before.
        num_parallel: Number of trials that run at once.
    """

    def __init__(
        self,
        console: Console,
        *,
        title: str,
        num_trials: int,
        objective: str,
        already_done: int = 0,
        num_parallel: int = 1,
    ):
        self.console, self.title, self.objective = console, title, objective
        self.num_trials, self.num_done, self.num_parallel = num_trials, already_done, num_parallel
        self.is_live = console.is_terminal and not console.is_dumb_terminal and not console.quiet
        self.begin = time.monotonic()
        self.running: dict[str, Running] = {}
        self.best: dict[str, Finished] = {}  # by key, the best first
        self.durations: list[float] = []  # of the trials that finished, in seconds
        self._label_width = LABEL
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self.is_live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.is_live:
            self._live.stop()

    def started(self, proposal: "Proposal") -> None:
        """Show a trial that starts, or starts again after an interruption."""
        self.running[proposal.key] = Running(proposal, time.monotonic())

    def update(self, proposal: "Proposal", report: Mapping[str, Any]) -> None:
        """Show an evaluation or the end of a trial.

        Args:
            proposal: The trial.
            report: Its report, with its status.
        """
        now = time.monotonic()
        trial = self.running.pop(proposal.key, None) or Running(proposal, now)
        if report["status"] == Status.RUNNING:
            trial.report, trial.reported = report, now
            self.running[proposal.key] = trial  # at the bottom
            return
        self.num_done += 1
        self.num_trials = max(self.num_trials, self.num_done)
        if report["status"] == Status.FINISHED:
            self.durations.append(now - trial.begin)
            self._note(proposal.key, proposal.phase, proposal.arm, dict(proposal.config), report)
        self.console.print(self._line(proposal, report), highlight=False, markup=False)

    def say(self, text: str) -> None:
        """Print a message above the table."""
        warn(self.console, f"{self.title}: {text}")

    def note_best(self, trial: TrialRecord) -> None:
        """Take a trial that finished before into account for the best so far."""
        self._note(trial.key, trial.phase, trial.arm, trial.config, trial.report)

    def _note(self, key: str, phase: str, arm: str, config: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        dense, pruned = (report[f"{self.objective}_{which}"] for which in ("dense", "pruned"))
        found = Finished(with_seed(phase, arm, config["seed"]), hyperparameters(config), dense, pruned)
        ranked = sorted((self.best | {key: found}).items(), key=lambda item: item[1].pruned, reverse=True)
        self.best = dict(ranked[:NUM_BEST])

    def _line(self, proposal: "Proposal", report: Mapping[str, Any]) -> str:
        start = f"{self.title} {self.num_done:>3}/{self.num_trials}  "
        self._label_width = max(self._label_width, len(proposal.label))
        padded = f"{proposal.label:<{self._label_width}}"
        if report["status"] != Status.FINISHED:
            padded = proposal.label if self.is_live else padded
            return f"{start}{padded} {report['status'].replace('_', ' ')}: {report['reason']}"
        dense, pruned = (report[f"{self.objective}_{which}"] for which in ("dense", "pruned"))
        end = f" dense {dense:.3f}  pruned {pruned:.3f}  {report['seconds']:6.1f} s"
        if not self.is_live:
            return f"{start}{padded}{end}   best {next(iter(self.best.values())).pruned:.3f}"
        label = Text(proposal.label)  # the numbers of a line fit into any terminal
        label.truncate(max(8, min(LABEL, self.console.width - len(start) - len(end))), overflow="ellipsis", pad=True)
        return f"{start}{label.plain}{end}"

    # ---- the live table ----------------------------------------------------------------------------------------------

    def _render(self) -> Group:
        title = Text(self._title(), style="bold", no_wrap=True, overflow="ellipsis")
        return Group(title, self._table()) if self.running or self.best else Group(title)

    def _table(self) -> Table:
        wide = self.console.width >= WIDE
        table = Table(box=None, pad_edge=False)
        table.add_column("running")
        names = [*(("lam", "rho") if wide else ()), "epoch", "loss", f"{self.objective} dense", "pruned"]
        for name in names:
            table.add_column(name, justify="right", overflow="fold")
        running = list(self.running.values())
        most = max(1, self.console.height - len(self.best) - 6)  # the rest: title, header, two lines, the cursor's
        for trial in running[-most:]:
            table.add_row(*self._cells(trial, wide))
        if len(running) > most:
            table.add_row(f"and {len(running) - most} more", style="dim")
        if self.best and self.console.height > NUM_BEST + 6:
            table.add_row()
            table.add_row(shortened("best so far, on validation"), style="bold")
            for best in list(self.best.values()):
                values = [number(best.values[name]) for name in ("lam", "rho")] if wide else []
                table.add_row(shortened(best.arm), *values, "", "", f"{best.dense:.3f}", f"{best.pruned:.3f}")
        return table

    def _cells(self, trial: Running, wide: bool) -> list[str | Text]:
        proposal, report = trial.proposal, trial.report
        values = hyperparameters(dict(proposal.config))
        shown = [report.get(name) for name in ("loss", f"{self.objective}_dense", f"{self.objective}_pruned")]
        return [
            shortened(with_seed(proposal.phase, proposal.arm, proposal.config.seed) if wide else proposal.label),
            *([number(values[name]) for name in ("lam", "rho")] if wide else ()),
            f"{report.get('epoch', 0)}/{proposal.num_epochs}",
            *("-" if value is None else f"{value:.3f}" for value in shown),
        ]

    def _title(self) -> str:
        now = time.monotonic()
        left = seconds_left(
            self.num_trials - self.num_done, list(self.running.values()), self.durations, self.num_parallel, now
        )
        return (
            f"{self.title}: {self.num_done} of {self.num_trials} trials ended, {len(self.running)} running, "
            f"{in_hours(now - self.begin)}" + ("" if left is None else f", about {in_hours(left)} left")
        )


def shortened(text: str) -> Text:
    """A cell that a narrow terminal shortens; numbers are never shortened."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def with_seed(phase: str, arm: str, seed: int) -> str:
    """The arm, with the seed if that is not the first one of the search."""
    return f"{arm} seed {seed}" if phase != "search" or seed else arm


def seconds_left(
    num_left: int, running: list[Running], durations: list[float], num_parallel: int, now: float
) -> float | None:
    """Estimate the time until all trials have ended.

    A trial takes as long as those that have finished; before the first one has, as long as the running ones will take
    at their pace so far.

    Args:
        num_left: Number of trials that have not ended.
        running: Those of them that run.
        durations: Seconds of each trial that has finished.
        num_parallel: Number of trials that run at once.
        now: The time, as `time.monotonic` says it.

    Returns:
        Seconds, or None if no trial has been evaluated.
    """
    times = durations or [whole for trial in running if (whole := trial.whole()) is not None]
    if not times:
        return None
    mean = fmean(times)
    rests = [max(0.0, mean - (now - trial.begin)) for trial in running]
    waiting = max(0, num_left - len(running))
    return max([(waiting * mean + sum(rests)) / num_parallel, *rests])
