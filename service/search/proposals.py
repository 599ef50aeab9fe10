"""Which configuration next: one persistent Optuna study an arm, and its thin adapter to Ray Tune.

An arm is a combination of choices (an optimizer with a regularizer, as a rule). Every arm gets the same number of
trials and a search of its own, because the table that a sweep is for compares arms: one search over all of them would
tune the promising ones and leave the others at their first guess. An arm's trials are the values known to work, then
points of a Halton sequence, then TPE.

What is proposed is a function of the seed and of the results of the arm's earlier trials but for the last few, which
may still run, and never depends on which trial happened to finish first: a sweep that is killed and goes on, also on
more or fewer workers, makes the same trials. How many results are left out is set by the workers it began with.
"""

import hashlib
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher
from scipy.stats import qmc

from trainables.config import TrialConfig

__all__ = ["FINISHED", "Arm", "Proposal", "Search", "TuneSearcher", "make_arms", "open_storage"]

NUM_STARTUP = 4  # trials of an arm before TPE has something to go by
FINISHED = Searcher.FINISHED


@dataclass(frozen=True)
class Arm:
    """A combination of choices, and what is left to search beside it."""

    choices: dict[str, str]  # "optimizer" -> "sam"
    space: dict[str, BaseDistribution] = field(default_factory=dict)  # "opt/rho" -> Float(0.05, 1.0, log=True)
    known: dict[str, float] = field(default_factory=dict)  # "opt/rho" -> 0.5

    @property
    def name(self) -> str:
        return " + ".join(self.choices.values())


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its configuration, its phase, and the number of the search's configuration that it repeats."""

    config: TrialConfig
    phase: str  # "search" or "confirm"
    arm: str
    number: int


def make_arms(space: Mapping[str, Any], known: Mapping[str, Any], chosen: Mapping[str, Sequence[str]]) -> list[Arm]:
    """Every combination of the space's choices (or of `chosen` ones), each with the parameters that exist beside it.

    A categorical distribution makes arms, also where it exists only beside some choice; the others are searched.
    """
    combinations: list[dict[str, str]] = [{}]
    rules = {**space, **{name: CategoricalDistribution(tuple(names)) for name, names in chosen.items() if names}}
    for name, rule in rules.items():  # parents stand before what exists beside them
        combinations = [
            {**choices, name: str(choice)} if choice is not None else choices
            for choices in combinations
            for choice in choices_of(resolve(rule, choices))
        ]
    arms = []
    for choices in combinations:
        dimensions = {name: resolve(rule, choices) for name, rule in space.items() if name not in choices}
        values = {name: resolve(rule, choices) for name, rule in known.items()}
        dimensions = {name: dist for name, dist in dimensions.items() if dist is not None}
        arms.append(Arm(choices, dimensions, {k: v for k, v in values.items() if k in dimensions and v is not None}))
    return arms


def choices_of(dist: Any) -> tuple[Any, ...]:
    return dist.choices if isinstance(dist, CategoricalDistribution) else (None,)


def resolve(rule: Any, choices: Mapping[str, str]) -> Any:
    """What a conditional entry, `{parent: {choice: value}}`, says beside these choices; None where it says nothing.

    A value may be conditional itself: `{"regularizer": {"l1": {"optimizer": {"sgd": 1.0}}}}`.
    """
    if not isinstance(rule, Mapping):
        return rule
    ((parent, by_choice),) = rule.items()
    return resolve(by_choice.get(choices.get(parent)), choices)


def open_storage(place: str | Path) -> BaseStorage:
    """A database URL (PostgreSQL for several hosts), or the path of a journal file on this one."""
    if isinstance(place, str) and "://" in place:
        return RDBStorage(place)
    return JournalStorage(JournalFileBackend(str(place)))


class Trials(Protocol):
    """Where proposals come from: None while the next has to wait for a result, FINISHED when there are no more."""

    def next(self) -> Any: ...


class Search:
    """The search phase of a sweep, over the studies of its arms.

    Args:
        num_trials: Configurations proposed for each arm; an arm without parameters to search has one.
        num_seeds: Trials of each configuration, with consecutive seeds. Their mean objective is what the search
            maximizes, because a single seed ranks configurations by luck as much as by merit.
        make_config: (choices, params) -> TrialConfig, with the first of the seeds.
        outcome: key -> the objective of a finished trial, nan if it ended otherwise, None if it has not ended.
        num_parallel: How many trials may run at once. An arm proposes its share of them, and half as many again, before
            the first has ended, so that a worker seldom waits for the slowest of its neighbours.
    """

    def __init__(
        self,
        name: str,
        arms: Sequence[Arm],
        *,
        storage: BaseStorage,
        num_trials: int,
        seed: int,
        make_config: Callable[[Mapping[str, str], Mapping[str, Any]], TrialConfig],
        outcome: Callable[[str], float | None],
        first: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
        num_parallel: int = 1,
        num_seeds: int = 1,
    ):
        self.arms, self.seed, self.first, self.num_seeds = list(arms), seed, first or {}, num_seeds
        self._make_config, self._outcome = make_config, outcome
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.studies = [
            optuna.create_study(
                storage=storage, study_name=f"{name}: {arm.name}", direction="maximize", load_if_exists=True
            )
            for arm in self.arms
        ]
        self.slots = [
            (index, number)
            for number in range(num_trials)
            for index, arm in enumerate(self.arms)
            if arm.space or number == 0
        ]
        self.lag = lag(num_parallel, sum(bool(arm.space) for arm in self.arms), num_seeds)
        self._launched: set[tuple[int, int]] = set()  # (index in slots, index of the seed)
        self._configs: dict[tuple[int, int], TrialConfig] = {}
        self._params: dict[tuple[int, int], Mapping[str, Any]] = {}
        self._untold: set[tuple[int, int]] = set()  # whose outcome the study does not know yet
        for index, study in enumerate(self.studies):
            for trial in study.get_trials(deepcopy=False):
                self._remember(index, trial.number, self._completed(index, trial))
                if not trial.state.is_finished():
                    self._untold.add((index, trial.number))

    def next(self) -> Any:
        """The first trial that is neither done nor launched by this process and may go: trials that a killed process
        left half done come up again in their own place, with the configuration they had."""
        self._tell()
        for number, slot in enumerate(self.slots):
            if (number, self.num_seeds - 1) in self._launched:
                continue
            if slot not in self._configs:
                if not self._ready(*slot):
                    continue
                self._ask(*slot)
            for repeat, config in enumerate(self.configs(slot)):
                if (number, repeat) in self._launched:
                    continue
                self._launched.add((number, repeat))
                if self._outcome(config.key) is None:
                    return Proposal(config, "search", self.arms[slot[0]].name, number)
        self._tell()
        return None if self.num_left else FINISHED

    @property
    def num_left(self) -> int:
        """Trials that have not been proposed."""
        return self.num_all - len(self._launched)

    @property
    def num_all(self) -> int:
        """Trials of the whole search."""
        return len(self.slots) * self.num_seeds

    def configs(self, slot: tuple[int, int]) -> list[TrialConfig]:
        """The trials of an (arm, number) that has been proposed: the same configuration with each seed."""
        first = self._configs[slot]
        return [first.model_copy(update={"seed": first.seed + repeat}) for repeat in range(self.num_seeds)]

    def value(self, slot: tuple[int, int]) -> float | None:
        """The mean objective over the seeds; nan if one of them failed, None while one has not ended."""
        values = [self._outcome(config.key) for config in self.configs(slot)]
        ended = [value for value in values if value is not None]
        return statistics.fmean(ended) if len(ended) == len(values) else None

    def ended(self) -> bool:
        """Whether every trial of the search has ended, successfully or not."""
        return all(slot in self._configs and self.value(slot) is not None for slot in self.slots)

    def _ready(self, index: int, number: int) -> bool:
        """Whether the one before it was proposed, and all results are there that it is made from."""
        if number and (index, number - 1) not in self._configs:
            return False
        return all(self.value((index, earlier)) is not None for earlier in self._seen(index, number))

    def _seen(self, index: int, number: int) -> range:
        """The arm's trials whose results its trial `number` is made from."""
        if self._given(index, number).keys() >= self.arms[index].space.keys():
            return range(0)
        return range(max(0, number + 1 - self.lag))

    def _ask(self, index: int, number: int) -> None:
        arm = self.arms[index]
        trial = self._study_with(index, self._propose(index, number)).ask(arm.space)
        assert trial.number == number
        self._remember(index, number, trial.params)
        self._untold.add((index, number))

    def _completed(self, index: int, trial: optuna.trial.FrozenTrial) -> Mapping[str, Any]:
        """A trial's parameters; those that a process was killed before it could write are written now, the same."""
        arm = self.arms[index]
        if trial.params.keys() >= arm.space.keys() or trial.state.is_finished():
            return trial.params
        begun = optuna.trial.Trial(self._study_with(index, self._propose(index, trial.number)), trial._trial_id)
        for name, dist in arm.space.items():
            begun._suggest(name, dist)  # as study.ask does
        return begun.params

    def _study_with(self, index: int, params: dict[str, Any]) -> optuna.Study:
        """The arm's study, which proposes just these parameters."""
        study = self.studies[index]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = PartialFixedSampler(params, optuna.samplers.RandomSampler(0))
        return study

    def _remember(self, index: int, number: int, params: Mapping[str, Any]) -> None:
        self._params[index, number] = params
        self._configs[index, number] = self._make_config(self.arms[index].choices, params)

    def _propose(self, index: int, number: int) -> dict[str, Any]:
        """The parameters of the arm's trial `number`: what is given, and TPE's for the rest, from a study that has the
        results of `_seen` and no others."""
        arm, given = self.arms[index], self._given(index, number)
        if given.keys() >= arm.space.keys():
            return given
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{arm.name}/{number}".encode()).digest()[:4])
        tpe = TPESampler(seed=seed, n_startup_trials=0, multivariate=True)
        study = optuna.create_study(direction="maximize", sampler=tpe)
        for earlier in self._seen(index, number):
            value = self.value((index, earlier))
            if value is not None and np.isfinite(value):
                study.add_trial(
                    optuna.create_trial(params=dict(self._params[index, earlier]), distributions=arm.space, value=value)
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = PartialFixedSampler(given, tpe)
            return study.ask(arm.space).params

    def _given(self, index: int, number: int) -> dict[str, Any]:
        """What is proposed without asking TPE: values known to work, then, until there are results, Halton points."""
        arm = self.arms[index]
        points: list[dict[str, float]] = []
        for point in (*self.first.get(arm.name, ()), arm.known):
            point = clip(point, arm.space)
            if point and point not in points:
                points.append(point)
        if number < len(points):
            return points[number]
        return self._halton(arm, number) if number < max(NUM_STARTUP, self.lag, len(points)) else {}

    def _halton(self, arm: Arm, number: int) -> dict[str, Any]:
        if not arm.space:
            return {}
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{arm.name}".encode()).digest()[:4])
        point = qmc.Halton(len(arm.space), rng=np.random.default_rng(seed)).random(number + 1)[number]
        return {name: from_unit(u, dist) for u, (name, dist) in zip(point, arm.space.items(), strict=True)}

    def _tell(self) -> None:
        """Bring the studies up to what the records know; a trial that did not finish is FAIL, never a value."""
        for index, number in sorted(self._untold):
            value = self.value((index, number))
            if value is None:
                continue
            if np.isfinite(value):
                self.studies[index].tell(number, value)
            else:
                self.studies[index].tell(number, state=TrialState.FAIL)
            self._untold.remove((index, number))


def lag(num_parallel: int, num_arms: int, num_seeds: int = 1) -> int:
    """How many configurations of an arm may be under way at once; one where trials run one by one."""
    if num_parallel == 1:
        return 1
    share = math.ceil(num_parallel / (max(1, num_arms) * num_seeds))
    return share + max(1, share // 2)


def clip(point: Mapping[str, float], space: Mapping[str, BaseDistribution]) -> dict[str, float]:
    """A point known from elsewhere, moved into this space's ranges."""
    ranges = {name: d for name, d in space.items() if isinstance(d, FloatDistribution | IntDistribution)}
    return {name: min(max(point[name], d.low), d.high) for name, d in ranges.items() if name in point}


def from_unit(u: float, dist: BaseDistribution) -> Any:
    """The value at fraction u of a range, on the range's own scale."""
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[min(int(u * len(dist.choices)), len(dist.choices) - 1)]
    assert isinstance(dist, FloatDistribution | IntDistribution)
    value = dist.low * (dist.high / dist.low) ** u if dist.log else dist.low + u * (dist.high - dist.low)
    value = min(max(value, dist.low), dist.high)
    return round(value) if isinstance(dist, IntDistribution) else float(value)


class TuneSearcher(Searcher):
    """Hands proposals to Ray Tune. What became of a trial is read from the records, so nothing is to be told here,
    and nothing of it is pickled: a sweep goes on from the study and the journal, never from Tune's snapshot."""

    def __init__(self, trials: Trials, *, metric: str):
        super().__init__(metric=metric, mode="max")
        self.trials = trials

    def suggest(self, trial_id: str) -> Any:
        proposal = self.trials.next()
        if not isinstance(proposal, Proposal):
            return proposal
        return proposal.config.model_dump(mode="json")

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a sweep is resumed by running it again, not from Tune's snapshot")

    def __getstate__(self) -> dict:
        return {}
