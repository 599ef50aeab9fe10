"""Which trials a sweep makes, in which order, and how many are left."""

import math
from collections.abc import Sequence
from dataclasses import replace

from service.records.best import is_named
from service.records.goal import excess
from service.records.recorder import Recorder
from service.search.adoption import Adoptable
from service.search.known import ATTRIBUTES, NAMES, Asked, all_known, carried, different_points, ranked
from service.search.proposals import Next, Proposal, Search, open_storage
from service.search.queue import TrialQueue
from service.search.race import next_stage
from service.search.space import Arm, is_baseline, make_config
from service.search.wanted import Wanted
from service.spec import SweepSpec
from trainables.config import TrialConfig
from trainables.result import Status

__all__ = ["Phases", "asked_of", "points_from_other_sweeps"]

NUM_REUSED = 3  # points from elsewhere that an arm starts with: the far ones say little


class Phases(TrialQueue):
    """The search, then the confirmation of each arm's best configuration on unseen seeds.

    Only trials of the confirmation read the test split. The confirmation runs in stages (see `service.search.race`). A
    stage starts when the previous one has ended, so the trials depend on the results, not on which trial ended first.

    Args:
        adoptable: Trials and trained networks that need not be trained again; None if there are none.
    """

    def __init__(self, spec: SweepSpec, arms: list[Arm], records: Recorder, adoptable: Adoptable | None = None):
        super().__init__(records)
        self.spec, self.arms, self.adoptable = spec, arms, adoptable
        self.goal = records.state.goal
        self.wanted = Wanted(make_config(spec, arms[0].choices, {}), spec.folder / "trials")
        search_state = records.state.search_state
        self.search = Search(
            spec.name,
            arms,
            storage=open_storage(spec.study_uri or spec.folder / "study.log"),
            num_trials=spec.num_trials,
            seed=spec.trial.seed,
            make_config=lambda choices, params: make_config(spec, choices, params),
            value_of=self.value_of,
            ended=lambda: records.state.ended,
            first=search_state["initial_points"],
            adopted=search_state["adopted"],
            generation=records.state.num_changes,
            violations_of=self.violations_of if self.goal.limits else None,
            num_parallel=search_state["num_parallel"],
            num_seeds=spec.num_search_seeds,
            sampler=spec.sampler,
        )
        self.num_search = self.search.num_all
        self.num_confirm = self._most_confirmations() * spec.num_seeds  # fewer if the race ends early
        self._proposed: set[str] = set()  # keys of confirmation trials that this process proposed
        self._contenders: list[Proposal] | None = None  # once the search has ended
        self._seeded: dict[tuple[str, int], Proposal] = {}  # (key in the search, number of the unseen seed) -> trial

    def value_of(self, key: str) -> float | None:
        """The objective of a finished trial; nan if it failed, None while something of it is to be measured."""
        trial = self.records.state.trials.get(key)
        if trial is None or not trial.done:
            return None
        if trial.status != Status.FINISHED:
            return math.nan
        if not self.wanted.has(trial):
            return math.nan if trial.unmeasured and key in self._launched else None
        value = self.goal.value(trial)
        assert value is not None
        return value

    def violations_of(self, configurations: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """See `Goal.violations`. A configuration is given by the keys of its trials, which have finished."""
        trials = self.records.state.trials
        return self.goal.violations([[trials[key] for key in keys] for keys in configurations])

    def has_ended(self, key: str) -> bool:
        return self.value_of(key) is not None

    @property
    def num_trained(self) -> int:
        """Number of trials with a kept trained network that lack a pruning method or sparsity of the sweep."""
        trials = self.records.state.trials.values()
        finished = [trial for trial in trials if trial.status == Status.FINISHED and not trial.left_out]
        return sum(not self.wanted.has(trial) and self.wanted.is_kept(trial.key) for trial in finished)

    @property
    def num_done(self) -> int:
        """Number of trials of the sweep that have ended, in earlier runs too."""
        trials = self.records.state.trials
        return sum(self.has_ended(key) for key, trial in trials.items() if not trial.left_out)

    def _start(self, proposal: Proposal) -> None:
        if self.adoptable is not None:
            self.adoptable.take(proposal.config)
        super()._start(proposal)

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
        if self._contenders is None:
            self._contenders = self._find_contenders()
        return self._contenders

    def _find_contenders(self) -> list[Proposal]:
        best_slot: dict[int, tuple[tuple[float, float], tuple[int, int]]] = {}
        for slot, rank in self._ranks().items():
            if slot[0] not in best_slot or rank > best_slot[slot[0]][0]:
                best_slot[slot[0]] = rank, slot
        ranked = sorted(best_slot, key=lambda index: best_slot[index][0], reverse=True)
        num = len(ranked) if self.spec.num_confirm is None else self.spec.num_confirm
        baselines = [index for index in ranked if num and is_baseline(self.spec, self.arms[index].choices)]
        return [
            replace(self.search.proposals(best_slot[index][1])[0], phase="confirm")
            for index in sorted({*ranked[:num], *baselines})
        ]

    def _ranks(self) -> dict[tuple[int, int], tuple[float, float]]:
        """How good each configuration is that did not fail: minus its violation of the limits, then its objective.

        All configurations that satisfy the limits have the violation 0. Among the others, the smallest violation wins.
        """
        values = {slot: self.search.value(slot) for slot in self.search.slots}
        finite = {slot: value for slot, value in values.items() if value is not None and math.isfinite(value)}
        if not self.goal.limits:
            return {slot: (0.0, value) for slot, value in finite.items()}
        violations = self.violations_of([[p.key for p in self.search.proposals(slot)] for slot in finite])
        return {slot: (-excess(of), finite[slot]) for slot, of in zip(finite, violations, strict=True)}

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

    def complete(self) -> bool:
        """Whether every trial of both phases has ended."""
        return self.search.ended() and self.confirmed()


def points_from_other_sweeps(spec: SweepSpec, arms: Sequence[Arm]) -> dict[str, list[dict[str, float]]]:
    """For each arm, good values of the nearest settings that other sweeps recorded, or that are published.

    lam is carried over by its rule (see `service.search.carrying`). Each arm gets `NUM_REUSED` points at most.
    """
    known = all_known(spec.folder.parent, skip_sweep=spec.name)
    points: dict[str, list[dict[str, float]]] = {}
    for arm in arms:
        own = make_config(spec, arm.choices, arm.initial_point)
        searched = {name for name in ("lr", "weight_decay") if f"opt/{name}" in arm.space}  # these come with lam
        asked = asked_of(own).model_copy(update=dict.fromkeys(searched))
        found = []
        for one in ranked(known, asked):
            if not is_named(one.optimizer or "", own.optimizer):
                continue
            point = {"lam": carried(one, asked).lam, "opt/rho": one.rho}
            point |= {"opt/lr": one.lr, "opt/weight_decay": one.weight_decay}
            found.append({name: value for name, value in point.items() if value is not None})
        if unequal := different_points(found, NUM_REUSED):
            points[arm.name] = unequal
    return points


def asked_of(config: TrialConfig) -> Asked:
    """The setting of a configuration."""
    fields = {name: getattr(config, name) for name in (*NAMES, "regularizer", "model", "max_epochs", *ATTRIBUTES)}
    fields |= {name: config.opt.get(name) or None for name in ("lr", "weight_decay")}
    return Asked.model_validate(fields | {"target_sparsity": config.target_sparsity})
