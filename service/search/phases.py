"""Which trials a sweep makes, in which order, and how many are left."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from service.records.best import is_named
from service.records.goal import excess
from service.records.recorder import Recorder
from service.search.adoption import Adoptable
from service.search.known import ATTRIBUTES, NAMES, Asked, all_known, carried, different_points, ranked
from service.search.proposals import Search
from service.search.queue import Next, Proposal, TrialQueue
from service.search.race import next_stage
from service.search.space import Arm, is_baseline, make_config
from service.search.storage import open_storage
from service.search.wanted import Wanted
from service.spec import SweepSpec
from trainables.config import TrialConfig
from trainables.result import Status

__all__ = ["Phases", "asked_of", "points_from_other_sweeps"]

Slot = tuple[int, int]  # an arm by its index, and the number of a configuration of its search

NUM_REUSED = 3  # points from elsewhere that an arm starts with: the far ones say little


class Phases(TrialQueue):
    """The search with its finalists, then the confirmation of each arm's best configuration on unseen seeds.

    One seed ranks configurations by luck as much as by merit. The finalists, an arm's best configurations of the
    search, are therefore trained on further seeds; the one with the highest mean over all its seeds is confirmed. Only
    trials of the confirmation read the test split. The confirmation runs in stages (see `service.search.race`). A stage
    starts when the previous one has ended, so the trials depend on the results, not on which trial ended first.

    Args:
        adoptable: Trials and trained networks that need not be trained again; None if there are none.
    """

    def __init__(self, spec: SweepSpec, arms: list[Arm], records: Recorder, adoptable: Adoptable | None = None):
        super().__init__(records)
        self.spec, self.arms, self.adoptable = spec, arms, adoptable
        self.goal = records.state.goal
        self.wanted = Wanted(make_config(spec, arms[0].choices, {}), spec.folder / "trials")
        search_state = records.state.search_state
        # A database may have studies of another sweep with this name. Earlier versions recorded no name of studies.
        study_name = search_state.get("study_name", spec.name) if spec.study_uri else spec.name
        self.search = Search(
            study_name,
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
        self.num_search = self.search.num_all + self._num_further()
        self.num_confirm = self._most_confirmations() * spec.num_seeds  # fewer if the race ends early
        self._proposed: dict[str, str] = {}  # key -> phase of the trials after the search that this process proposed
        self._finalists: dict[Slot, list[Proposal]] | None = None  # with further seeds, once the search has ended
        self._contenders: list[Proposal] | None = None  # once the finalists have ended
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
        """Number of trials of the sweep that have ended, in earlier runs too.

        After a change of the sweep, its records may have trials that confirmed another selection; they do not count.
        """
        chosen = {p.key for p in self.confirmations()} if self.search.ended() and self.selected() else set()
        return sum(
            self.has_ended(key)
            for key, trial in self.records.state.trials.items()
            if not trial.left_out and (trial.phase != "confirm" or key in chosen)
        )

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
        further = self._first_unproposed([p for of in self.finalists().values() for p in of])
        if further is not None:
            return further
        if not self.selected():
            return Next.WAIT
        confirmation = self._first_unproposed(self.confirmations())
        if confirmation is not None:
            return confirmation
        return Next.FINISHED if self.confirmed() else Next.WAIT

    def _first_unproposed(self, proposals: Sequence[Proposal]) -> Proposal | None:
        """The first trial without a value that this process has not proposed, None if there is none."""
        for proposal in proposals:
            if proposal.key not in self._proposed:
                self._proposed[proposal.key] = proposal.phase
                if self.value_of(proposal.key) is None:
                    return proposal
        return None

    # ---- the finalists ---------------------------------------------------------------------------------------------

    def _num_further(self) -> int:
        """The number of trials with further seeds, if no configuration fails."""
        if self.spec.num_finalists == 1:
            return 0
        configurations = Counter(index for index, _ in self.search.slots)
        finalists = sum(min(self.spec.num_finalists, num) for num in configurations.values() if num > 1)
        return finalists * self.spec.num_finalist_seeds

    def finalists(self) -> dict[Slot, list[Proposal]]:
        """The best configurations of each arm in the search, with the further trials of each.

        The only one of an arm has none, because there is nothing to select.
        """
        if self._finalists is None:
            self._finalists = {}
            ranks = self._ranks({slot: self._searched(slot) for slot in self.search.slots})
            for index in range(len(self.arms)):
                own = sorted((slot for slot in ranks if slot[0] == index), key=ranks.__getitem__, reverse=True)
                best = own[: self.spec.num_finalists]
                num_further = self.spec.num_finalist_seeds if len(best) > 1 else 0
                for slot in best:
                    first = self.search.proposals(slot)[0]
                    seeds = range(self.spec.first_unseen_seed - num_further, self.spec.first_unseen_seed)
                    self._finalists[slot] = [
                        replace(first, config=first.config.model_copy(update={"seed": seed})) for seed in seeds
                    ]
        return self._finalists

    def _searched(self, slot: Slot) -> list[str]:
        return [proposal.key for proposal in self.search.proposals(slot)]

    def selected(self) -> bool:
        """Whether every trial of the finalists has ended."""
        return all(self.value_of(p.key) is not None for further in self.finalists().values() for p in further)

    # ---- the confirmation ------------------------------------------------------------------------------------------

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
        further = {slot: [proposal.key for proposal in of] for slot, of in self.finalists().items()}
        ranks = self._ranks({slot: self._searched(slot) + further.get(slot, []) for slot in self.search.slots})
        best_slot: dict[int, Slot] = {}
        for slot in [slot for slot in further if slot in ranks]:
            if slot[0] not in best_slot or ranks[slot] > ranks[best_slot[slot[0]]]:
                best_slot[slot[0]] = slot
        ranked = sorted(best_slot, key=lambda index: ranks[best_slot[index]], reverse=True)
        num = len(ranked) if self.spec.num_confirm is None else self.spec.num_confirm
        baselines = [index for index in ranked if num and is_baseline(self.spec, self.arms[index].choices)]
        return [
            replace(self.search.proposals(best_slot[index])[0], phase="confirm")
            for index in sorted({*ranked[:num], *baselines})
        ]

    def _ranks(self, keys: Mapping[Slot, Sequence[str]]) -> dict[Slot, tuple[float, float]]:
        """How good each configuration is that did not fail: minus its violation of the limits, then its mean objective.

        All configurations that satisfy the limits have the violation 0. Among the others, the smallest violation wins.

        Args:
            keys: The trials of every configuration.
        """
        means = {slot: fmean(self.value_of(key) or 0.0 for key in of) for slot, of in keys.items()}
        finite = {slot: mean for slot, mean in means.items() if math.isfinite(mean)}
        if not self.goal.limits:
            return {slot: (0.0, mean) for slot, mean in finite.items()}
        violations = self.violations_of([keys[slot] for slot in finite])
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
            seed = self.spec.first_unseen_seed + repeat
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
        num_proposed = Counter(self._proposed.values())
        further = self._num_further()
        if self.search.ended():
            further = sum(map(len, self.finalists().values()))
        left = self.search.num_left + max(0, further - num_proposed["search"])
        if not self.complete():
            left += max(0, self.num_confirm - num_proposed["confirm"])
        return len(self._repeat) + left

    def complete(self) -> bool:
        """Whether every trial of both phases has ended."""
        return self.search.ended() and self.selected() and self.confirmed()


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
    names = (*NAMES, "regularizer", "model", "max_epochs", *ATTRIBUTES, "recalibrate")
    fields = {name: getattr(config, name) for name in names}
    fields |= {name: config.opt.get(name) or None for name in ("lr", "weight_decay")}
    return Asked.model_validate(fields | {"target_sparsity": config.target_sparsity})
