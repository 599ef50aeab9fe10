"""The progress of a running sweep: a live table in a terminal, one line for each ended trial elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trainables.result import Status

__all__ = ["Progress"]

MOST_ROWS = 14  # of the live table


class Progress:
    """Shows the trials of a sweep; a context manager.

    In a terminal, a table shows the running trials, the last updated one at the bottom. Each trial that ends is printed
    as a line.

    Args:
        console: Where to print.
        title: The sweep's name.
        num_trials: Number of trials of the sweep; an upper bound if it may end early.
        objective: The metric that the search maximizes.
        already_done: Number of trials that ended before.
    """

    def __init__(self, console: Console, *, title: str, num_trials: int, objective: str, already_done: int = 0):
        self.console, self.title, self.objective = console, title, objective
        self.num_trials, self.num_done, self.already_done = num_trials, already_done, already_done
        self.begin = time.monotonic()
        self.best: float | None = None
        self.rows: dict[str, dict[str, Any]] = {}
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def update(self, key: str, label: str, report: dict[str, Any], num_epochs: int) -> None:
        """Show an evaluation or the end of a trial.

        Args:
            key: The trial's key.
            label: Its arm and values, for people.
            report: Its report, with its status.
            num_epochs: Number of epochs that it trains for.
        """
        self.rows.pop(key, None)  # move it to the bottom
        self.rows[key] = {"label": label, "num_epochs": num_epochs, **report}
        if report["status"] == Status.RUNNING:
            return
        self.num_done += 1
        self.num_trials = max(self.num_trials, self.num_done)
        if report["status"] == Status.FINISHED:
            self.note_best(report[f"{self.objective}_pruned"])
        self.console.print(self._line(key), highlight=False, markup=False)
        del self.rows[key]

    def say(self, text: str) -> None:
        """Print a message above the table."""
        self.console.print(f"{self.title}: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def note_best(self, pruned: float) -> None:
        """Take the objective of a finished trial into account for the best so far."""
        self.best = pruned if self.best is None else max(self.best, pruned)

    def _line(self, key: str) -> str:
        row = self.rows[key]
        start = f"{self.title} {self.num_done:>3}/{self.num_trials}  {row['label']:<64}"
        if row["status"] != Status.FINISHED:
            return f"{start} {row['status'].replace('_', ' ')}: {row['reason']}"
        dense, pruned = (row[f"{self.objective}_{which}"] for which in ("dense", "pruned"))
        return f"{start} dense {dense:.3f}  pruned {pruned:.3f}  {row['seconds']:6.1f} s   best {self.best:.3f}"

    def _render(self) -> Table:
        elapsed = time.monotonic() - self.begin
        done = self.num_done - self.already_done
        left = f", about {elapsed / done * (self.num_trials - self.num_done):.0f} s left" if done else ""
        table = Table(
            title=f"{self.title}: {self.num_done} of {self.num_trials} trials, {elapsed:.0f} s{left}",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        for name in ("trial", "epoch", "loss", f"{self.objective} dense", "pruned"):
            table.add_column(name, justify="left" if name == "trial" else "right", overflow="fold")
        for row in list(self.rows.values())[-MOST_ROWS:]:
            values = [row.get(name) for name in ("loss", f"{self.objective}_dense", f"{self.objective}_pruned")]
            cells = ["-" if value is None else f"{value:.3f}" for value in values]
            label = Text(row["label"], no_wrap=True, overflow="ellipsis")  # numbers are never shortened
            table.add_row(label, f"{row.get('epoch', 0)}/{row['num_epochs']}", *cells)
        return table
