"""The result of a sweep as pandas tables."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.process import default_runs
from service.records.best import best as best_rows
from service.records.state import EVENTS, State, TrialRecord, find_sweeps, flatten
from service.records.summary import current_summary
from service.views.tables import headline
from trainables.config import HYPERPARAMETERS, hyperparameters
from trainables.paths import expanded

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Result", "best", "read_result"]

SPLITS = {"curve": "validation", "test": "test"}
ARM_COLUMNS = ("optimizer", "regularizer", *HYPERPARAMETERS, "trial", "value", "feasible", "num_collapsed")


class Result(dict[str, Any]):
    """The result of a sweep: its summary (see `service.records.summary.summarize`), with the tables of its records.

    `Sweep.run()` and `read_result(name)` return it. In a notebook it shows the headline and `table`.

    The tables are pandas DataFrames. They are read from the records when they are first used, and kept.

    Args:
        summary: The summary.
        folder: The folder of the sweep's records.
    """

    def __init__(self, summary: Mapping[str, Any], folder: Path):
        super().__init__(summary)
        self.folder = folder

    @property
    def headline(self) -> str:
        """The winner in one sentence, and whether its lead over the best arm without a regularizer is significant."""
        return headline(self)

    @functools.cached_property
    def table(self) -> "pd.DataFrame":
        """The mean objective of each arm by sparsity.

        A row for each arm, named "optimizer + regularizer", and a column for each sparsity, a number. If arms were
        confirmed on unseen seeds, these are their means on test, and otherwise those of the best configurations of the
        search on validation. Fractions, not percent; pruned by the method that decides the objective.
        """
        import pandas as pd  # lazily: it takes half a second

        rows, split = (self["confirmed"], "test") if self["confirmed"] else (self["arms"], "curve")
        values = [{float(level): cell["value"] for level, cell in row[split].items()} for row in rows]
        index = pd.Index([row["arm"] for row in rows], name="arm")
        return pd.DataFrame(values, index=index).rename_axis(columns="sparsity")

    @functools.cached_property
    def arms(self) -> "pd.DataFrame":
        """The configuration behind each row of `table`, and how sure its value is.

        Columns: `optimizer`, `regularizer`, `lam`, `rho`, `lr`, `weight_decay`; `seeds`, the number of seeds; `value`,
        the mean of the objective on validation, which selects the winner; `feasible`, whether it satisfies
        the sweep's limits; `num_collapsed`, the trials that predict one class; `trial`, the key of its first trial. For
        confirmed arms with a regularizer, the difference to the same optimizer without one, on test and paired by seed:
        `difference`, its 95% interval `low` and `high`, and `p_holm`.
        """
        import pandas as pd

        rows = []
        for row in self["confirmed"] or self["arms"]:
            against = row.get("against") or {}
            low, high = against.get("interval") or (None, None)
            compared = {"difference": against.get("difference"), "low": low, "high": high}
            rows.append(
                {name: row[name] for name in ARM_COLUMNS}
                | {"seeds": len(row["seeds"]) if "seeds" in row else row["num_seeds"]}
                | compared
                | {"p_holm": against.get("p_holm")}
            )
        index = pd.Index([row["arm"] for row in self["confirmed"] or self["arms"]], name="arm")
        return as_numbers(pd.DataFrame(rows, index=index))

    @functools.cached_property
    def trials(self) -> "pd.DataFrame":
        """Every trial, in the order in which they started; the index is the trial's key.

        Columns: `arm`, `phase` ("search" or "confirm"), `number` of the configuration in its arm's search, `seed`,
        `status`, `reason` (why it did not finish), `seconds`, the objective before and after pruning on validation
        (such as `acc_dense` and `acc_pruned`), `left_out` (it does not fit the sweep any more, which was changed), and
        each other value of the configuration that differs between trials, such as `lam` and `opt/rho`.
        """
        import pandas as pd

        trials = list(self._state.trials.values())
        flat = [flatten(trial.config) for trial in trials]
        names = dict.fromkeys(name for config in flat for name in config)
        varying = [name for name in names if len({repr(config.get(name)) for config in flat}) > 1]
        shown = dict.fromkeys(("optimizer", "regularizer", "lam", "opt/rho", "opt/lr", "opt/weight_decay", *varying))
        rows = [
            {
                "arm": trial.arm,
                "phase": trial.phase,
                "number": trial.number,
                "seed": trial.config["seed"],
                "status": str(trial.status),
                "reason": trial.reason,
                "seconds": trial.report.get("seconds"),
                **{
                    f"{self['objective']}_{which}": trial.report.get(f"{self['objective']}_{which}")
                    for which in ("dense", "pruned")
                },
                "left_out": trial.left_out,
                **{name: config.get(name) for name in shown if name in names and name not in ("seed", "read_test")},
            }
            for trial, config in zip(trials, flat, strict=True)
        ]
        return as_numbers(pd.DataFrame(rows, index=pd.Index([trial.key for trial in trials], name="trial")))

    @functools.cached_property
    def curves(self) -> "pd.DataFrame":
        """What every finished trial measured: a row for each trial, pruning method, split and sparsity.

        Columns: `trial`, `arm`, `phase`, `seed`, `lam`, `rho`, `lr`, `weight_decay`, `pruning` (the label of the
        method), `split` ("validation" or "test"), `sparsity`, and all metrics of the task.
        """
        import pandas as pd

        return as_numbers(pd.DataFrame([row for trial in self._state.trials.values() for row in curve_rows(trial)]))

    @functools.cached_property
    def _state(self) -> State:
        return State.read(self.folder, evaluations=False)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        import html

        where = "test, unseen seeds" if self["confirmed"] else "validation, seeds of the search"
        title = f"Mean {html.escape(self['objective'])} by sparsity ({where})"
        return f"<p><b>{html.escape(self.headline)}</b></p><p>{title}</p>{self.table.to_html(float_format='%.3f')}"


def curve_rows(trial: TrialRecord) -> Iterator[dict[str, Any]]:
    """The rows of `Result.curves` of one trial."""
    about = {"trial": trial.key, "arm": trial.arm, "phase": trial.phase, "seed": trial.config["seed"]}
    for label in trial.pruned:
        for key, split in SPLITS.items():
            for row in trial.rows(label, key):
                yield {**about, **hyperparameters(trial.config), "pruning": label, "split": split, **row}


def as_numbers(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with NaN in place of None in columns of numbers, so that these are of a numeric type."""
    for name in table.columns[table.dtypes == "object"]:
        if all(value is None or isinstance(value, int | float) for value in table[name]):
            table[name] = table[name].astype(float)
    return table


def read_result(name: str, runs: str | Path | None = None) -> Result:
    """The result of a recorded sweep so far, without running it.

    It can be read while the sweep runs.

    Args:
        name: The sweep's name.
        runs: The folder of all records; default: $SPARSITY_SWEEPS_RUNS, else `runs`.

    Raises:
        ValueError: If there is no such sweep, or another version recorded it.
    """
    folder = expanded(runs or default_runs(), "runs").resolve()
    if not (folder / name / EVENTS).is_file():
        found = ", ".join(sweep.name for sweep in find_sweeps(folder)) or "(none)"
        raise ValueError(f"name: must be one of the sweeps in {folder}, {found}, got {name!r}")
    return Result(current_summary(State.read(folder / name)), folder / name)


def best(
    runs: str | Path | None = None,
    *,
    architecture: str | None = None,
    dataset: str | None = None,
    optimizer: str | None = None,
    regularizer: str | None = None,
) -> "pd.DataFrame":
    """The best configuration of each arm at each sparsity, from the records of all sweeps.

    Args:
        runs: The folder of all records; default: $SPARSITY_SWEEPS_RUNS, else `runs`.
        architecture: Only this architecture.
        dataset: Only this dataset.
        optimizer: Only this optimizer.
        regularizer: Only this regularizer.

    Returns:
        A DataFrame with a row for each group of comparable configurations. The columns are those of
        `service.records.best.best`, which returns the same rows as dictionaries. Empty without a finished trial.
    """
    import pandas as pd

    wanted = {"architecture": architecture, "dataset": dataset, "optimizer": optimizer, "regularizer": regularizer}
    return pd.DataFrame(best_rows(runs or default_runs(), **wanted))
