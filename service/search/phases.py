"""Which trials a sweep makes, in which order, and how many are left."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from service.records.best import TRAINING_FIELDS, best
from service.records.recorder import Recorder
from service.search.proposals import Next, Proposal, Search, open_storage
from service.search.race import next_stage
from service.search.space import Arm, is_baseline, make_config
from service.spec import SweepSpec
from trainables.result import Status

__all__ = ["STORAGE_HINT", "Phases", "points_from_other_sweeps"]

STORAGE_HINT = "No more trials are started. Free space or make the folder writable, then run the same command again."


class Phases:
    """The search, then the confirmation of each arm's best configuration on unseen seeds.

    Only trials of the confirmation read the test split. The confirmation runs in stages (see `service.search.race`). A
    stage starts when the previous one has ended, so the trials depend on the results, not on which trial ended first.
    """

    def __init__(self, spec: SweepSpec, arms: list[Arm], records: Recorder, objective: str):
        self.spec, self.arms, self.records, self.objective = spec, arms, records, objective
        search_state = records.state.search_state
        self.search = Search(
            spec.name,
            arms,
            storage=open_storage(spec.study_uri or spec.folder / "study.log"),
            num_trials=spec.num_trials,
            seed=spec.trial.seed,
            make_config=lambda choices, params: make_config(spec, choices, params),
            value_of=self.value_of,
            first=search_state["initial_points"],
            num_parallel=search_state["num_parallel"],
            num_seeds=spec.num_search_seeds,
        )
        self.num_search = self.search.num_all
        self.num_confirm = self._most_confirmations() * spec.num_seeds  # fewer if the race ends early
        self._proposed: set[str] = set()  # keys of confirmation trials that this process proposed
        self.stopped_because = ""
        self._launched: dict[str, Proposal] = {}  # by this process
        self._repeat: list[Proposal] = []
        self._seeded: dict[tuple[str, int], Proposal] = {}  # (key in the search, number of the unseen seed) -> trial

    def value_of(self, key: str) -> float | None:
        """The objective of a finished trial; nan if it ended otherwise, None if it has not ended."""
        trial = self.records.state.trials.get(key)
        if trial is None or not trial.done:
            return None
        return trial.report[f"{self.objective}_pruned"] if trial.status == Status.FINISHED else float("nan")

    def next(self) -> Proposal | Next:
        """The next proposal, recorded as started.

        WAIT while the next proposal depends on a running trial, or while a running trial may have to be repeated.
        """
        proposal: Proposal | Next = Next.FINISHED
        with self.stopping_on_storage_faults():
            proposal = self._repeat.pop(0) if self._repeat else self._next()
            if isinstance(proposal, Proposal) and not self.stopped_because:
                self._start(proposal)
        if self.stopped_because:
            return Next.FINISHED
        if proposal is Next.FINISHED and any(self.value_of(key) is None for key in self._launched):
            return Next.WAIT
        return proposal

    def _start(self, proposal: Proposal) -> None:
        config = proposal.config
        self.records.trial_started(
            config.key,
            phase=proposal.phase,
            arm=proposal.arm,
            number=proposal.number,
            config=config.model_dump(mode="json"),
        )
        self._launched[config.key] = proposal

    def _next(self) -> Proposal | Next:
        proposal = self.search.next()
        if proposal is not Next.FINISHED:
            return proposal
        if not self.search.ended():
            return Next.WAIT
        for confirmation in self.confirmations():
            if confirmation.key not in self._proposed:
                self._proposed.add(confirmation.key)
                if self.value_of(confirmation.key) is None:
                    return confirmation
        return Next.FINISHED if self.confirmed() else Next.WAIT

    def _most_confirmations(self) -> int:
        """The largest number of arms that may be confirmed."""
        if self.spec.num_confirm is None:
            return len(self.arms)
        if self.spec.num_confirm == 0:
            return 0
        baselines = sum(is_baseline(self.spec, arm.choices) for arm in self.arms)
        return min(len(self.arms), self.spec.num_confirm + baselines)

    def contenders(self) -> list[Proposal]:
        """The best configuration of each arm to confirm, by its mean validation objective in the search."""
        best_slot: dict[int, tuple[float, tuple[int, int]]] = {}
        for slot in self.search.slots:
            value = self.search.value(slot)
            assert value is not None
            if math.isfinite(value) and (slot[0] not in best_slot or value > best_slot[slot[0]][0]):
                best_slot[slot[0]] = value, slot
        ranked = sorted(best_slot, key=lambda index: -best_slot[index][0])
        num = len(ranked) if self.spec.num_confirm is None else self.spec.num_confirm
        baselines = [index for index in ranked if num and is_baseline(self.spec, self.arms[index].choices)]
        return [
            replace(self.search.proposals(best_slot[index][1])[0], phase="confirm")
            for index in sorted({*ranked[:num], *baselines})
        ]

    def confirmations(self) -> list[Proposal]:
        """The confirmation's trials that follow from the results so far, in the order in which they start.

        All arms take the same unseen seeds in the same order, so that they can be compared in pairs.
        """
        contenders = self.contenders()
        baselines = {i for i, p in enumerate(contenders) if p.config.regularizer == "none"}
        num_trials = [0] * len(contenders)
        proposals: list[Proposal] = []
        while True:
            values = [
                [self.value_of(self._with_seed(proposal, i).key) for i in range(num)]
                for proposal, num in zip(contenders, num_trials, strict=True)
            ]
            if any(value is None for row in values for value in row):
                break  # this stage is still running
            stage = next_stage(
                [[value for value in row if value is not None] for row in values],
                baselines=baselines,
                num_seeds=self.spec.num_seeds,
                race=self.spec.race,
            )
            if not stage:
                break
            for index, num in stage.items():
                first = num_trials[index]
                proposals += [self._with_seed(contenders[index], first + i) for i in range(num)]
                num_trials[index] += num
        return proposals

    def _with_seed(self, proposal: Proposal, repeat: int) -> Proposal:
        """The configuration with unseen seed number `repeat`, counted from the first seed after the search's."""
        place = proposal.key, repeat
        if place not in self._seeded:
            seed = self.spec.trial.seed + self.spec.num_search_seeds + repeat
            config = proposal.config.model_copy(update={"seed": seed, "read_test": True})
            self._seeded[place] = replace(proposal, config=config)
        return self._seeded[place]

    def confirmed(self) -> bool:
        """Whether every trial of the confirmation has ended."""
        return all(self.value_of(proposal.key) is not None for proposal in self.confirmations())

    @property
    def num_left(self) -> int:
        """Number of trials still to be proposed; an upper bound if the race may end early."""
        if self.stopped_because:
            return 0
        confirmation = 0
        if not (self.search.ended() and self.confirmed()):
            confirmation = max(0, self.num_confirm - len(self._proposed))
        return len(self._repeat) + self.search.num_left + confirmation

    def repeat(self, key: str) -> None:
        """Propose a launched trial once more."""
        self._repeat.append(self._launched[key])

    def proposal(self, key: str) -> Proposal:
        """The proposal of a trial that this process launched."""
        return self._launched[key]

    def stop(self, reason: str) -> None:
        self.stopped_because = self.stopped_because or reason

    @contextlib.contextmanager
    def stopping_on_storage_faults(self) -> Iterator[None]:
        """Start no more trials once the records cannot be written; what is on disk stays valid."""
        try:
            yield
        except OSError as error:
            self.stop(f"The records cannot be written: {error.strerror}, {error.filename}. {STORAGE_HINT}")

    def complete(self) -> bool:
        """Whether every trial of both phases has ended."""
        return self.search.ended() and self.confirmed()


def points_from_other_sweeps(spec: SweepSpec) -> dict[str, list[dict[str, float]]]:
    """For each arm, the best values that other sweeps recorded for this architecture at this sparsity.

    They are ordered by dataset (this sweep's first), then by the number of `TRAINING_FIELDS` that differ from this
    sweep's, then by training length (longest first).
    """
    trial = spec.trial
    pruning = {"pruning_schedule": trial.pruning_schedule, "criterion": trial.criterion, "scope": trial.scope}
    rows = [
        row
        for row in best(spec.runs, architecture=trial.architecture, skip_sweep=spec.name)
        if row["sparsity"] == trial.target_sparsity and pruning.items() <= row.items()
    ]

    def distance(row: Mapping[str, Any]) -> tuple:
        differing = sum(row[name] != getattr(trial, name) for name in TRAINING_FIELDS)
        return row["dataset"] != trial.dataset, differing, -row["max_epochs"]

    points: dict[str, list[dict[str, float]]] = {}
    for row in sorted(rows, key=distance):
        point = {"lam": row["lam"], **{f"opt/{name}": row[name] for name in ("rho", "lr", "weight_decay")}}
        point = {name: value for name, value in point.items() if value is not None}
        if point:
            points.setdefault(f"{row['optimizer']} + {row['regularizer']}", []).append(point)
    return points
