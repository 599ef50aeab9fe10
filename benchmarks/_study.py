"""Studies: sweeps at equal budgets, and what was planned to be compared before their first trial.

A study runs its sweeps resumably. `export` writes compact records, which are committed. Where there are no others,
`restore` continues from them.
"""

import gzip
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from uuid import uuid4

from matplotlib.figure import Figure

import sparsity
from benchmarks._markdown import Comparison, comparison_table, paragraph, table, with_interval
from benchmarks._measure import RESULTS
from service import Sweep
from service.records.events import EventLog
from service.records.state import EVENTS, State, TrialRecord, flatten
from service.records.summary import configurations_by_arm
from service.search.space import make_arms
from service.statistics import interval_of_mean
from service.views.figures import COLOURS, label_levels, sparsity_axes
from service.views.tables import number
from trainables.config import hyperparameters
from trainables.result import Status

__all__ = ["Arm", "Found", "Study"]

KEPT_EVENTS = ("sweep", "change", "search_state", "start", "end", "pruned")
STUDY_LOG = "study.log"

Arm = tuple[str, str]  # an optimizer with a regularizer


@dataclass(frozen=True)
class Study:
    """What is trained, and what is compared.

    Args:
        sweeps: They differ in their arms and their names alone.
        planned: By title, the pairs of arms whose accuracies are compared. Holm's correction covers the pairs below one
            title.
        margin: A difference whose interval lies within +-margin counts as none.
        results: Folder of the compact records.
        continued: A sweep whose committed records the first of `sweeps` begins with, so that it goes on with its search
            in other ranges or with more configurations. Its own records stay as they are.
    """

    sweeps: tuple[Sweep, ...]
    planned: Mapping[str, Sequence[tuple[Arm, Arm]]]
    margin: float | None = None
    results: Path = field(default=RESULTS)
    continued: Sweep | None = None

    def run(self) -> None:
        """Train what is missing, and export what there is, also after an interruption.

        Raises:
            SystemExit: If something is wrong before a sweep starts, such as a missing folder; one line for each fault.
                After Ctrl-C, with status 130.
        """
        self.restore()
        self.begin()
        try:
            for sweep in self.sweeps:
                sweep.run()
        except ValueError as error:
            raise SystemExit(str(error)) from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # the sweep has said what is left
        finally:
            self.export()

    def committed(self, sweep: Sweep, name: str) -> Path:
        return self.results / f"{sweep.name.replace('_', '-')}-{name}.gz"

    def export(self) -> None:
        """Write what continuing and reporting need: outcomes and proposals, without paths of this machine."""
        self.results.mkdir(parents=True, exist_ok=True)
        for sweep in self.sweeps:
            if not (sweep.folder / EVENTS).exists():
                continue
            entries = [entry for entry, _ in EventLog.read(sweep.folder / EVENTS) if entry["event"] in KEPT_EVENTS]
            lines = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
            self.committed(sweep, EVENTS).write_bytes(gzip.compress(lines.encode(), mtime=0))
            if (sweep.folder / STUDY_LOG).exists():
                proposals = (sweep.folder / STUDY_LOG).read_bytes()
                self.committed(sweep, STUDY_LOG).write_bytes(gzip.compress(proposals, mtime=0))

    def restore(self) -> None:
        """Copy the committed records of each sweep that has none in its folder."""
        for sweep in self.sweeps:
            if (sweep.folder / EVENTS).exists() or not self.committed(sweep, EVENTS).exists():
                continue
            sweep.folder.mkdir(parents=True, exist_ok=True)
            for name in (STUDY_LOG, EVENTS):  # the events last: they are what is looked for
                if (committed := self.committed(sweep, name)).exists():
                    (sweep.folder / name).write_bytes(gzip.decompress(committed.read_bytes()))

    def begin(self) -> None:
        """Copy the committed records of `continued` if the first sweep has none, under an identifier of its own."""
        if self.continued is None or (self.sweeps[0].folder / EVENTS).exists():
            return
        committed = self.committed(self.continued, EVENTS)
        if committed.exists():
            first, *others = gzip.decompress(committed.read_bytes()).decode().splitlines(keepends=True)
            header = json.dumps({**json.loads(first), "sweep_id": uuid4().hex}) + "\n"
            self.sweeps[0].folder.mkdir(parents=True, exist_ok=True)
            (self.sweeps[0].folder / EVENTS).write_text("".join([header, *others]))

    def found(self) -> "Found":
        """The results so far."""
        return Found(self, [State.read(s.folder) for s in self.sweeps if (s.folder / EVENTS).exists()])


@dataclass(frozen=True)
class Found:
    """The results of a study, as the tables and the figure of a page."""

    study: Study
    states: Sequence[State]

    @property
    def sweep(self) -> Sweep:
        """The first of the study, which stands for what all have in common."""
        return self.study.sweeps[0]

    @property
    def target(self) -> float:
        return self.sweep.trial.target_sparsity

    @property
    def levels(self) -> list[float]:
        return sorted({0.0, *self.sweep.trial.sparsities, self.target})

    @cached_property
    def configurations(self) -> dict[Arm, list[list[TrialRecord]]]:
        """The confirmation trials of each arm that have ended: a list for each configuration, ordered by seed.

        After a change of the sweep, an arm may have several configurations. The one with the most seeds comes first; of
        those with equally many, the one that was selected last.
        """
        found: dict[Arm, list[list[TrialRecord]]] = {}
        for state in self.states:
            ended = [t for t in state.trials.values() if t.phase == "confirm" and t.done and not t.left_out]
            started = {key: position for position, key in enumerate(state.trials)}
            for configurations in configurations_by_arm(ended).values():
                config = configurations[0][0].config
                configurations.sort(key=lambda trials: (len(trials), started[trials[0].key]), reverse=True)
                found[config["optimizer"], config["regularizer"]] = configurations
        return found

    @cached_property
    def arms(self) -> dict[Arm, list[TrialRecord]]:
        """The confirmation trials that count: those of each arm's first configuration."""
        return {arm: configurations[0] for arm, configurations in self.configurations.items()}

    def values(
        self, arm: Arm, sparsity: float, metric: str = "acc", split: str = "test", method: str | None = None
    ) -> dict[int, float]:
        """Seed -> a metric after pruning to `sparsity`; empty for an arm that is not confirmed yet.

        See `values_of`.
        """
        return self.values_of(self.arms.get(arm, ()), sparsity, metric, split, method)

    def values_of(
        self,
        trials: Sequence[TrialRecord],
        sparsity: float,
        metric: str = "acc",
        split: str = "test",
        method: str | None = None,
    ) -> dict[int, float]:
        """Seed -> a metric after pruning to `sparsity`.

        A training that diverged counts as accuracy 0. It has no other metric, and one that failed otherwise has none.

        Args:
            split: "test", or "curve" for validation.
            method: Label of the pruning method; the sweep's first by default.
        """
        method = method or self.sweep.pruning[0].label
        found = {}
        for trial in trials:
            value = trial.at(sparsity, metric, split, method)
            if trial.status == Status.DIVERGED and metric == "acc":
                value = 0.0
            if value is not None:
                found[trial.config["seed"]] = value
        return found

    def mean(self, arm: Arm, sparsity: float, **which: str) -> float:
        """The mean of `values`; nan if there are none."""
        return statistics.fmean(self.values(arm, sparsity, **which).values() or [math.nan])

    def comparisons(self, planned: Sequence[tuple[Arm, Arm]]) -> list[Comparison]:
        """Pairs of arms, by their test accuracy at the target."""
        return [
            (f"{' + '.join(ours)}, against {' + '.join(theirs)}", self.at_target(ours), self.at_target(theirs))
            for ours, theirs in planned
        ]

    def at_target(self, arm: Arm) -> dict[int, float]:
        return self.values(arm, self.target)

    @cached_property
    def planned_arms(self) -> list[Arm]:
        made = [arm.choices for sweep in self.study.sweeps for arm in make_arms(sweep)]
        return [(choices["optimizer"], choices["regularizer"]) for choices in made]

    @property
    def num_confirmed(self) -> int:
        """Number of arms with all their unseen seeds."""
        return sum(len(self.arms.get(arm, ())) >= self.sweep.num_seeds for arm in self.planned_arms)

    @property
    def is_complete(self) -> bool:
        return self.num_confirmed == len(self.planned_arms)

    def progress(self) -> str:
        trials = [trial for state in self.states for trial in state.trials.values() if trial.done]
        search = sum(trial.phase == "search" and not trial.left_out for trial in trials)
        confirmed = sum(map(len, self.arms.values()))
        hours = sum(trial.report.get("seconds") or 0.0 for trial in trials) / 3600
        failed = sum(trial.status != "finished" for trial in trials)
        software = [each for state in self.states for each in (state.header["software"], *state.software_of_changes)]
        commits = dict.fromkeys(each["git_commit"][:10] for each in software)
        missing = f"**Not complete:** {self.num_confirmed} of {len(self.planned_arms)} arms are confirmed. "
        further = f", and {self.sweep.num_finalist_seeds} more seeds for the best {self.sweep.num_finalists}"
        others = len(trials) - search - confirmed
        earlier = f"Of an earlier selection: {others} trials. " if others else ""
        num = self.sweep.num_search_seeds
        return (
            f"{'' if self.is_complete else missing}Search: {search} trials (planned: {self.sweep.num_trials} "
            f"configurations x {num} seed{'s' * (num > 1)} per arm"
            f"{further if self.sweep.num_finalists > 1 else ''}). Confirmation: {confirmed} trials. {earlier}They took "
            f"{hours:.1f} core hours; {failed or 'none'} of them diverged or failed. "
            f"Commits of the code at the start and at changes: {', '.join(commits)}."
        )

    def method_table(self) -> str:
        """Each arm's test accuracy by sparsity, ordered by the validation accuracy at the target."""
        header = ["optimizer", "regularizer", "lam", "rho", "lr", "weight decay", "n", *map("{:g}".format, self.levels)]
        rows = []
        for arm in sorted(self.arms, key=lambda arm: -self.mean(arm, self.target, split="curve")):
            trials = self.arms[arm]
            settings = [number(value) for value in hyperparameters(trials[0].config).values()]
            cells = [with_interval(list(self.values(arm, level).values())) for level in self.levels]
            rows.append([*arm, *settings, str(len(trials)), *cells])
        return table(header, rows)

    def further_settings(self) -> str:
        """What the search chose beside the columns of `method_table`; empty if there is nothing."""
        parts = []
        for made in (arm for sweep in self.study.sweeps for arm in make_arms(sweep)):
            arm = made.choices["optimizer"], made.choices["regularizer"]
            names = [
                n for n in made.space if n not in ("lam", *(f"opt/{name}" for name in ("rho", "lr", "weight_decay")))
            ]
            if names and arm in self.arms:
                config = flatten(self.arms[arm][0].config)
                parts.append(f"{' + '.join(arm)}: {', '.join(f'{n} {number(config[n])}' for n in names)}")
        return paragraph(f"Further values that the search chose: {'; '.join(parts)}.") if parts else ""

    def draw(self) -> Figure:
        """A panel for each confirmed optimizer: a line and 95% interval for each regularizer, a dot for each seed."""
        confirmed = {optimizer for optimizer, _ in self.arms}
        optimizers, regularizers = (list(dict.fromkeys(arm[i] for arm in self.planned_arms)) for i in (0, 1))
        optimizers = [optimizer for optimizer in optimizers if optimizer in confirmed]
        shown = [value for arm in self.arms for level in self.levels for value in self.values(arm, level).values()]
        # In every figure, a regularizer has the same colour.
        colours = dict(zip(sparsity.names("regularizers"), COLOURS, strict=False))
        num_columns = min(4, len(optimizers))
        num_rows = math.ceil(len(optimizers) / num_columns)
        figure = Figure(figsize=(4 * num_columns, 3.75 * num_rows), layout="constrained")
        panels = figure.subfigures(num_rows, num_columns, squeeze=False).flat
        for panel, optimizer in zip(panels, optimizers, strict=False):
            axes = sparsity_axes(panel, "test accuracy")
            for regularizer in regularizers:
                self.draw_arm(axes, (optimizer, regularizer), colours[regularizer])
            label_levels(axes, self.levels)
            axes.tick_params(axis="x", labelsize=7)
            axes.set_ylim(0, 1.02 * (max(shown, default=0) or 1))
            axes.set_title(optimizer)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7, loc="lower left")
        return figure

    def draw_arm(self, axes, arm: Arm, colour: str) -> None:
        seeds = [list(self.values(arm, level).values()) for level in self.levels]
        if not all(seeds):
            return
        densities = [1 - level for level in self.levels]
        means = [statistics.fmean(column) for column in seeds]
        axes.plot(densities, means, marker="o", markersize=3, color=colour, label=arm[1])
        bands = [interval_of_mean(column) or (column[0], column[0]) for column in seeds]
        axes.fill_between(densities, *zip(*bands, strict=True), color=colour, alpha=0.15, linewidth=0)
        for density, column in zip(densities, seeds, strict=True):
            axes.plot([density] * len(column), column, ".", color=colour, alpha=0.25, markersize=3)

    def section(self, figure: str) -> str:
        """The generated part of a page.

        Args:
            figure: File name of the figure, beside the page.
        """
        parts = [paragraph(self.progress())] if self.states else ["Nothing has run yet."]
        if not self.arms:
            return "\n\n".join(parts)
        parts += [
            paragraph(
                f"Test accuracy by sparsity: mean and 95% interval over n unseen seeds, ordered by validation accuracy "
                f"at {self.target:g}."
            ),
            self.method_table(),
            *filter(None, [self.further_settings()]),
            f"![test accuracy against sparsity, a panel for each optimizer]({figure})",
        ]
        for title, planned in self.study.planned.items():
            if any(ours in self.arms for ours, _ in planned):
                shown = comparison_table(
                    self.comparisons(planned), verdicts=("better", "worse"), margin=self.study.margin
                )
                parts += [paragraph(f"{title}: paired differences of test accuracy at {self.target:g}."), shown]
        return "\n\n".join(parts)
