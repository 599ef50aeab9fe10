"""Which trials a sweep makes, in which order, and how many are left."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from service.records.state import SETTING, Records, best
from service.search.proposals import FINISHED, Arm, Proposal, Search, open_storage
from service.search.race import next_stage
from service.spec import Sweep

__all__ = ["STORAGE_HINT", "Phases", "known_elsewhere"]

STORAGE_HINT = "No more trials are started. Free space or make the folder writable, then run the same command again."


class Phases:
    """The search, then the confirmation, which trains each combination's best configuration on unseen seeds.

    Only trials of the confirmation read the test split. The confirmation runs in stages (see `service.search.race`). A stage
    starts when the previous one has ended, so the trials depend on the results, not on which trial ended first.
    """

    def __init__(self, sweep: Sweep, arms: list[Arm], records: Records, objective: str):
        self.sweep, self.arms, self.records, self.objective = sweep, arms, records, objective
        plan = records.plan
        self.search = Search(
            sweep.name,
            arms,
            storage=open_storage(sweep.study_uri or sweep.folder / "study.log"),
            num_trials=sweep.num_trials,
            seed=sweep.seed,
            make_config=sweep.trial_config,
            outcome=self.outcome,
            first=plan["first"],
            num_parallel=plan["num_parallel"],
            num_seeds=sweep.num_search_seeds,
        )
        self.num_search = self.search.num_all
        self.num_confirm = self._most_confirmations() * sweep.num_seeds  # fewer if the race ends early
        self._proposed: set[str] = set()  # keys of confirmation trials that this process proposed
        self.stopped_because = ""
        self._launched: dict[str, Proposal] = {}  # by this process
        self._again: list[Proposal] = []

    def outcome(self, key: str) -> float | None:
        trial = self.records.trials.get(key)
        if trial is None or not trial.done:
            return None
        return trial.report[f"{self.objective}_pruned"] if trial.status == "finished" else float("nan")

    def next(self) -> Any:
        """The next proposal, recorded as started, or FINISHED. None while the next proposal depends on a running trial,
        or while a running trial may have to be repeated."""
        proposal: Any = FINISHED
        with self.stopping_on_storage_faults():
            proposal = self._again.pop(0) if self._again else self._next()
            if isinstance(proposal, Proposal) and not self.stopped_because:
                self._start(proposal)
        if self.stopped_because:
            return FINISHED
        if proposal is FINISHED and any(self.outcome(key) is None for key in self._launched):
            return None
        return proposal

    def _start(self, proposal: Proposal) -> None:
        config = proposal.config
        self.records.start(
            config.key,
            phase=proposal.phase,
            arm=proposal.arm,
            number=proposal.number,
            config=config.model_dump(mode="json"),
        )
        self._launched[config.key] = proposal

    def _next(self) -> Any:
        proposal = self.search.next()
        if proposal is not FINISHED:
            return proposal
        if not self.search.ended():
            return None
        for proposal in self.confirmations():
            if proposal.config.key not in self._proposed:
                self._proposed.add(proposal.config.key)
                if self.outcome(proposal.config.key) is None:
                    return proposal
        return FINISHED if self.confirmed() else None

    def _most_confirmations(self) -> int:
        """The largest number of combinations that may be confirmed."""
        if self.sweep.num_confirm is None:
            return len(self.arms)
        if self.sweep.num_confirm == 0:
            return 0
        baselines = sum(self.sweep.is_baseline(arm.choices) for arm in self.arms)
        return min(len(self.arms), self.sweep.num_confirm + baselines)

    def contenders(self) -> list[Proposal]:
        """The best configuration of each combination to confirm, by its mean validation objective in the search."""
        best_slot: dict[int, tuple[float, tuple[int, int]]] = {}
        for slot in self.search.slots:
            value = self.search.value(slot)
            assert value is not None
            if math.isfinite(value) and (slot[0] not in best_slot or value > best_slot[slot[0]][0]):
                best_slot[slot[0]] = value, slot
        ranked = sorted(best_slot, key=lambda index: -best_slot[index][0])
        num = len(ranked) if self.sweep.num_confirm is None else self.sweep.num_confirm
        baselines = [index for index in ranked if num and self.sweep.is_baseline(self.arms[index].choices)]
        proposals = []
        for index in sorted({*ranked[:num], *baselines}):
            slot = best_slot[index][1]
            config = self.search.configs(slot)[0]
            proposals.append(Proposal(config, "confirm", self.arms[index].name, self.search.slots.index(slot)))
        return proposals

    def confirmations(self) -> list[Proposal]:
        """The confirmation's trials that follow from the results so far, in the order in which they start.

        All combinations take the same unseen seeds in the same order, so that they can be compared in pairs.
        """
        contenders = self.contenders()
        baselines = {i for i, p in enumerate(contenders) if p.config.regularizer == "none"}
        num_trials = [0] * len(contenders)
        proposals: list[Proposal] = []
        while True:
            values = [
                [self.outcome(self._with_seed(proposal, i).config.key) for i in range(num)]
                for proposal, num in zip(contenders, num_trials, strict=True)
            ]
            if any(value is None for row in values for value in row):
                break  # this stage is still running
            stage = next_stage(
                [[value for value in row if value is not None] for row in values],
                baselines=baselines,
                num_seeds=self.sweep.num_seeds,
                race=self.sweep.race,
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
        seed = self.sweep.seed + self.sweep.num_search_seeds + repeat
        return replace(proposal, config=proposal.config.model_copy(update={"seed": seed, "read_test": True}))

    def confirmed(self) -> bool:
        """Whether every trial of the confirmation has ended."""
        return all(self.outcome(proposal.config.key) is not None for proposal in self.confirmations())

    @property
    def num_to_come(self) -> int:
        """Number of trials still to be proposed; an upper bound if the race may end early."""
        if self.stopped_because:
            return 0
        confirmation = 0
        if not (self.search.ended() and self.confirmed()):
            confirmation = max(0, self.num_confirm - len(self._proposed))
        return len(self._again) + self.search.num_left + confirmation

    def again(self, key: str) -> None:
        """Propose a launched trial once more."""
        self._again.append(self._launched[key])

    def label(self, key: str) -> str:
        return label(self._launched[key])

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


def known_elsewhere(sweep: Sweep) -> dict[str, list[dict[str, float]]]:
    """For each combination, the best values that other sweeps recorded for this architecture at this sparsity.

    They are ordered by dataset (this sweep's first), then by the number of fields of `SETTING` that differ from this
    sweep's, then by training length (longest first).
    """
    pruning = {"pruning_schedule": sweep.pruning_schedule, "criterion": sweep.criterion, "scope": sweep.scope}
    rows = [
        row
        for row in best(sweep.runs, architecture=sweep.architecture, skip_sweep=sweep.name)
        if row["sparsity"] == sweep.target_sparsity and pruning.items() <= row.items()
    ]

    def distance(row: dict[str, Any]) -> tuple:
        differing = sum(row[name] != getattr(sweep, name) for name in SETTING)
        return row["dataset"] != sweep.dataset, differing, -row["max_epochs"]

    points: dict[str, list[dict[str, float]]] = {}
    for row in sorted(rows, key=distance):
        point = {"lam": row["lam"], **{f"opt/{name}": row[name] for name in ("rho", "lr", "weight_decay")}}
        point = {name: value for name, value in point.items() if value is not None}
        if point:
            points.setdefault(f"{row['optimizer']} + {row['regularizer']}", []).append(point)
    return points


def label(proposal: Proposal) -> str:
    config = proposal.config
    parts = [proposal.arm]
    if config.regularizer != "none":
        parts.append(f"lam {config.lam:.2g}")
    if "rho" in config.opt:
        parts.append(f"rho {config.opt['rho']:.2g}")
    abbreviations = {"lr": "lr", "weight_decay": "wd"}
    parts += [f"{abbreviations[name]} {config.opt[name]:.2g}" for name in abbreviations if name in config.opt]
    if proposal.phase != "search" or config.seed:
        parts.append(f"seed {config.seed}")
    return " ".join(parts)
