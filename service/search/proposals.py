"""Choose the next configuration to try, with one persistent Optuna study for each arm.

An arm is an optimizer with a regularizer. Every arm has the same number of trials and a search of its own, because a
sweep's tables compare arms: one search over all of them would tune the promising ones and leave the others at their
first guess. An arm's trials are its initial points, then points of a Halton sequence, then TPE.

A proposal is a function of the seed and of the results of the arm's earlier trials, except the last few, which may
still run. It never depends on which trial happened to finish first. A sweep that is killed and continued makes the same
trials, even if the number of workers has changed: the records keep the `num_parallel` that the sweep began with.
"""

import functools
import hashlib
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import PartialFixedSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.stats import qmc

from service.search.space import Arm
from trainables.config import TrialConfig, hyperparameters

__all__ = ["Next", "Proposal", "Search", "num_pending", "open_storage"]

NUM_STARTUP = 4  # trials of an arm before TPE has enough results to learn from


class Next(Enum):
    """What `next` returns when there is no proposal."""

    WAIT = "the next proposal depends on a running trial"
    FINISHED = "there are no more trials"


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Args:
        phase: "search" or "confirm".
        arm: The arm's name.
        number: The number of its configuration in the search. The seeds of a configuration share it.
    """

    config: TrialConfig
    phase: str
    arm: str
    number: int

    @functools.cached_property
    def key(self) -> str:
        """The configuration's key, computed once: the driver looks results up by it again and again."""
        return self.config.key

    @property
    def label(self) -> str:
        """Arm and hyperparameters, for people: `sam + wcr lam 1e-05 rho 0.1 lr 0.1 wd 0.03`."""
        values = {name: value for name, value in hyperparameters(dict(self.config)).items() if value is not None}
        short = {"weight_decay": "wd"}
        parts = [self.arm, *(f"{short.get(name, name)} {value:.2g}" for name, value in values.items())]
        if self.phase != "search" or self.config.seed:
            parts.append(f"seed {self.config.seed}")
        return " ".join(parts)


def open_storage(place: str | Path) -> BaseStorage:
    """Open Optuna's storage: a database if `place` is a URL, else a journal file.

    A study that several hosts share needs PostgreSQL.
    """
    if isinstance(place, str) and "://" in place:
        return RDBStorage(place)
    return JournalStorage(JournalFileBackend(str(place)))


class Search:
    """The search phase of a sweep.

    Args:
        num_trials: Configurations proposed for each arm. An arm without parameters to search has one.
        num_seeds: Trials of each configuration, with consecutive seeds. The search maximizes their mean objective,
            because a single seed ranks configurations by luck as much as by merit.
        make_config: Makes the TrialConfig, with the first seed, from an arm's choices and the proposed parameters.
        value_of: key -> the objective of a finished trial, nan if it ended otherwise, None if it has not ended.
        first: arm -> points to propose first, before the arm's own initial point.
        adopted: arm -> the parameters of earlier trials that count as its first configurations.
        generation: Number of changes of the sweep. Each has studies of its own, which begin with what was adopted.
        dense_of: key -> the dense metric of a finished trial.
        max_dense_drop: How far a configuration's dense metric may lie below the best one of the arm. TPE looks for the
            best objective among those that satisfy this. None is no constraint.
        num_parallel: How many trials may run at once. It decides how far an arm proposes ahead of its results.
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
        value_of: Callable[[str], float | None],
        first: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
        adopted: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        generation: int = 0,
        dense_of: Callable[[str], float] | None = None,
        max_dense_drop: float | None = None,
        num_parallel: int = 1,
        num_seeds: int = 1,
    ):
        self.adopted, self._dense_of, self._max_dense_drop = adopted or {}, dense_of, max_dense_drop
        again = f" ({generation + 1})" if generation else ""
        self.arms, self.seed, self.first, self.num_seeds = list(arms), seed, first or {}, num_seeds
        self._make_config, self._value_of = make_config, value_of
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.studies = [
            optuna.create_study(
                storage=storage, study_name=f"{name}: {arm.name}{again}", direction="maximize", load_if_exists=True
            )
            for arm in self.arms
        ]
        self.slots = [
            (index, number)
            for number in range(num_trials)
            for index, arm in enumerate(self.arms)
            if arm.space or number == 0
        ]
        self._numbers = {slot: number for number, slot in enumerate(self.slots)}
        self.num_pending = num_pending(num_parallel, sum(bool(arm.space) for arm in self.arms), num_seeds)
        self._launched: set[tuple[int, int]] = set()  # (index in slots, index of the seed)
        self._proposals: dict[tuple[int, int], list[Proposal]] = {}  # (arm, number) -> a trial for each seed
        self._params: dict[tuple[int, int], Mapping[str, Any]] = {}
        # (arm, number) of the configurations whose result is not in the study yet
        self._untold: set[tuple[int, int]] = set()
        for index, study in enumerate(self.studies):
            for trial in study.get_trials(deepcopy=False):
                self._remember(index, trial.number, trial.params)
                if not trial.state.is_finished():
                    self._untold.add((index, trial.number))

    def next(self) -> Proposal | Next:
        """The first trial that is neither done nor launched by this process, and that may start.

        If an earlier process was killed, its unfinished trials are returned again, in the original order and with the
        same configurations.
        """
        self._tell()
        for number, slot in enumerate(self.slots):
            if (number, self.num_seeds - 1) in self._launched:
                continue
            if slot not in self._proposals:
                if not self._ready(*slot):
                    continue
                self._ask(*slot)
            for repeat, proposal in enumerate(self.proposals(slot)):
                if (number, repeat) in self._launched:
                    continue
                self._launched.add((number, repeat))
                if self._value_of(proposal.key) is None:
                    return proposal
        self._tell()
        return Next.WAIT if self.num_left else Next.FINISHED

    @property
    def num_left(self) -> int:
        """Number of trials that have not been proposed."""
        return self.num_all - len(self._launched)

    @property
    def num_all(self) -> int:
        """Number of trials of the whole search."""
        return len(self.slots) * self.num_seeds

    def proposals(self, slot: tuple[int, int]) -> list[Proposal]:
        """The trials of a proposed (arm, number): one configuration with each seed."""
        return self._proposals[slot]

    def value(self, slot: tuple[int, int]) -> float | None:
        """The mean objective over the seeds; nan if one of them failed, None if one has not ended."""
        values = [self._value_of(proposal.key) for proposal in self.proposals(slot)]
        ended = [value for value in values if value is not None]
        return statistics.fmean(ended) if len(ended) == len(values) else None

    def ended(self) -> bool:
        """Whether every trial of the search has ended, successfully or not."""
        return all(slot in self._proposals and self.value(slot) is not None for slot in self.slots)

    def _ready(self, index: int, number: int) -> bool:
        """Whether configuration `number` of an arm can be proposed.

        The one before it must have been proposed, and all results that it uses must be known.
        """
        if number and (index, number - 1) not in self._proposals:
            return False
        return all(self.value((index, earlier)) is not None for earlier in self._used(index, number))

    def _used(self, index: int, number: int) -> range:
        """Numbers of the arm's earlier configurations whose results are used to propose configuration `number`."""
        if self._given(index, number).keys() >= self.arms[index].space.keys():
            return range(0)
        return range(max(0, number + 1 - self.num_pending))

    def _ask(self, index: int, number: int) -> None:
        """Propose a configuration and add it to the arm's study, whole or not at all."""
        params, study = self._propose(index, number), self.studies[index]
        study.add_trial(
            optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=self.arms[index].space)
        )
        assert len(study.get_trials(deepcopy=False)) == number + 1, "another process writes to this study"
        self._remember(index, number, params)
        self._untold.add((index, number))

    def _remember(self, index: int, number: int, params: Mapping[str, Any]) -> None:
        self._params[index, number] = params
        arm = self.arms[index]
        first = self._make_config(arm.choices, params)
        self._proposals[index, number] = [
            Proposal(first.model_copy(update={"seed": seed}), "search", arm.name, self._number_of(index, number))
            for seed in range(first.seed, first.seed + self.num_seeds)
        ]

    def _number_of(self, index: int, number: int) -> int:
        """The number of a configuration, counted over all arms.

        It is -1 if an earlier run with a larger `num_trials` proposed the configuration.
        """
        return self._numbers.get((index, number), -1)

    def _propose(self, index: int, number: int) -> dict[str, Any]:
        """The parameters of an arm's configuration: those that are given, and TPE's for the rest.

        TPE works on a study in memory with the results of `_used` and no others.
        """
        arm, given = self.arms[index], self._given(index, number)
        if given.keys() >= arm.space.keys():
            return {name: given[name] for name in arm.space}
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{arm.name}/{number}".encode()).digest()[:4])
        tpe = TPESampler(seed=seed, n_startup_trials=0, multivariate=True)
        study = optuna.create_study(direction="maximize", sampler=tpe)
        values = {earlier: self.value((index, earlier)) for earlier in self._used(index, number)}
        known = {earlier: value for earlier, value in values.items() if value is not None and np.isfinite(value)}
        drops = self._dense_drops(index, list(known))
        for earlier, value in known.items():
            params = dict(self._params[index, earlier])
            study.add_trial(
                optuna.create_trial(params=params, distributions=arm.space, value=value, constraints=drops.get(earlier))
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = PartialFixedSampler(given, tpe)
            return study.ask(arm.space).params

    def _dense_drops(self, index: int, numbers: Sequence[int]) -> dict[int, dict[str, float]]:
        """By number of a configuration: by how much its dense metric violates the constraint (<= 0 if it does not)."""
        if self._max_dense_drop is None or self._dense_of is None:
            return {}
        dense = {
            number: statistics.fmean(self._dense_of(proposal.key) for proposal in self.proposals((index, number)))
            for number in numbers
        }
        best = max(dense.values(), default=0.0)
        return {number: {"dense drop": best - value - self._max_dense_drop} for number, value in dense.items()}

    def _given(self, index: int, number: int) -> dict[str, Any]:
        """The parameters that need no results: initial points, then Halton points until there are results."""
        arm = self.arms[index]
        points: list[dict[str, Any]] = [dict(point) for point in self.adopted.get(arm.name, ())]
        for point in (*self.first.get(arm.name, ()), arm.initial_point):
            point = clip(point, arm.space)
            if point and point not in points:
                points.append(point)
        if number < len(points):
            return points[number]
        return self._halton(arm, number) if number < max(NUM_STARTUP, self.num_pending, len(points)) else {}

    def _halton(self, arm: Arm, number: int) -> dict[str, Any]:
        if not arm.space:
            return {}
        seed = int.from_bytes(hashlib.sha256(f"{self.seed}/{arm.name}".encode()).digest()[:4])
        point = qmc.Halton(len(arm.space), rng=np.random.default_rng(seed)).random(number + 1)[number]
        return {name: from_unit(u, dist) for u, (name, dist) in zip(point, arm.space.items(), strict=True)}

    def _tell(self) -> None:
        """Copy new results from the records to the studies. A configuration with a failed trial becomes FAIL."""
        for index, number in sorted(self._untold):
            value = self.value((index, number))
            if value is None:
                continue
            if np.isfinite(value):
                self.studies[index].tell(number, value)
            else:
                self.studies[index].tell(number, state=TrialState.FAIL)
            self._untold.remove((index, number))


def num_pending(num_parallel: int, num_arms: int, num_seeds: int = 1) -> int:
    """How many configurations of an arm may be under way at once, counting the next one.

    About 1.5 times the number of workers per arm and seed, so that a free worker rarely waits for the slowest trial. It
    is 1 if trials run one at a time.
    """
    if num_parallel == 1:
        return 1
    share = math.ceil(num_parallel / (max(1, num_arms) * num_seeds))
    return share + max(1, share // 2)


def clip(point: Mapping[str, float], space: Mapping[str, BaseDistribution]) -> dict[str, float]:
    """A point from elsewhere, moved into the ranges of this space."""
    ranges = {name: d for name, d in space.items() if isinstance(d, FloatDistribution | IntDistribution)}
    return {name: min(max(point[name], d.low), d.high) for name, d in ranges.items() if name in point}


def from_unit(u: float, dist: BaseDistribution) -> Any:
    """The value at the fraction `u` of a range, on the range's own scale."""
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[min(int(u * len(dist.choices)), len(dist.choices) - 1)]
    assert isinstance(dist, FloatDistribution | IntDistribution)
    value = dist.low * (dist.high / dist.low) ** u if dist.log else dist.low + u * (dist.high - dist.low)
    value = min(max(value, dist.low), dist.high)
    return round(value) if isinstance(dist, IntDistribution) else float(value)
