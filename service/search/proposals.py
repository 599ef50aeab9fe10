"""Choose the next configuration to try, with one persistent Optuna study for each arm.

An arm is an optimizer with a regularizer. Every arm has the same number of trials and a search of its own, because a
sweep's tables compare arms: one search over all of them would tune the promising ones and leave the others at their
first guess. An arm's trials are its initial points, then points of a Halton sequence, then those of TPE or of a
Gaussian process, whose time grows with the cube of the number of results, so that TPE follows it after `MOST_FOR_GP`.

A proposal is a function of the seed and of the results of the arm's earlier trials, except the last few, which may
still run. It never depends on which trial happened to finish first. A sweep that is killed and continued makes the same
trials, even if the number of workers has changed: the records keep the `num_parallel` that the sweep began with.
"""

import hashlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from service.records.goal import excess
from service.search.queue import Next, Proposal
from service.search.samplers import clip, halton_point, sample
from service.search.space import Arm
from trainables.config import TrialConfig

__all__ = ["Search", "num_pending"]

NUM_STARTUP = 4  # trials of an arm before there are enough results to learn from
MOST_FOR_GP = 50  # results of an arm; with more, TPE proposes
# The results of an arm that TPE learns from. Its time grows with their number, and it gives old ones little weight.
MOST_RESULTS, NUM_BEST = 500, 25


class Search:
    """The search phase of a sweep.

    Args:
        num_trials: Configurations proposed for each arm. An arm without parameters to search has one.
        num_seeds: Trials of each configuration, with consecutive seeds. The search maximizes their mean objective,
            because a single seed ranks configurations by luck as much as by merit.
        make_config: Makes the TrialConfig, with the first seed, from an arm's choices and the proposed parameters.
        value_of: key -> the objective of a finished trial, nan if it ended otherwise, None if it has not ended. Once a
            trial has a value, it keeps it.
        ended: Returns the keys of the trials that have ended, to which keys are only appended. Without it, `value_of`
            is called for every unfinished trial again and again.
        first: arm -> points to propose first, before the arm's own initial point.
        adopted: arm -> the parameters of earlier trials that count as its first configurations.
        generation: Number of changes of the sweep. Each has studies of its own, which begin with what was adopted.
        violations_of: By how much finished configurations of an arm, each given as the keys of its trials, violate each
            constraint (see `Goal.violations`). The search looks for the best objective among those that satisfy all.
            None without a constraint.
        num_parallel: How many trials may run at once. It decides how far an arm proposes ahead of its results.
        sampler: What proposes after the Halton points: "tpe", or "gp", a Gaussian process.
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
        ended: Callable[[], Sequence[str]] | None = None,
        first: Mapping[str, Sequence[Mapping[str, float]]] | None = None,
        adopted: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        generation: int = 0,
        violations_of: Callable[[Sequence[Sequence[str]]], Sequence[dict[str, float]]] | None = None,
        num_parallel: int = 1,
        num_seeds: int = 1,
        sampler: str = "tpe",
    ):
        self.adopted, self._violations_of, self.sampler = adopted or {}, violations_of, sampler
        again = f" ({generation + 1})" if generation else ""
        self.arms, self.seed, self.first, self.num_seeds = list(arms), seed, first or {}, num_seeds
        self._make_config, self._value_of, self._ended = make_config, value_of, ended
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
        self._num_numbers = [num_trials if arm.space else min(num_trials, 1) for arm in self.arms]
        self._next = [(0, 0)] * len(self.arms)  # of each arm: number and seed of the first trial not launched
        self._num_launched = 0
        self._returned: set[str] = set()  # keys that `next` has returned: configurations may be equal in a small space
        self._proposals: dict[tuple[int, int], list[Proposal]] = {}  # (arm, number) -> a trial for each seed
        self._params: dict[tuple[int, int], Mapping[str, Any]] = {}
        self._given_points: dict[tuple[int, int], dict[str, Any]] = {}
        self._values: dict[tuple[int, int], float] = {}
        self._num_values = [0] * len(self.arms)  # of each arm: number of its first configurations that all have values
        self._histories: dict[int, tuple[optuna.Study, int, int]] = {}  # see `_history`
        # (arm, number) of the configurations whose result is not in the study yet
        self._untold: set[tuple[int, int]] = set()
        self._without_value = set(self.slots)
        self._slots_of: dict[str, list[tuple[int, int]]] = {}  # key -> each (arm, number) with this configuration
        self._changed: set[tuple[int, int]] = set()  # configurations that may have got a value
        self._num_ended = 0  # keys of `ended` that have been looked at
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
        self._update()
        while (slot := self._first_startable()) is not None:
            index, number = slot
            for repeat in range(self._next[index][1], self.num_seeds):
                proposal = self.proposals(slot)[repeat]
                self._next[index] = (number, repeat + 1) if repeat + 1 < self.num_seeds else (number + 1, 0)
                self._num_launched += 1
                if proposal.key not in self._returned and self._value_of(proposal.key) is None:
                    self._returned.add(proposal.key)
                    return proposal
        self._update()
        return Next.WAIT if self.num_left else Next.FINISHED

    def _first_startable(self) -> tuple[int, int] | None:
        """The first (arm, number) in the order of `slots` with a trial that may start; it is proposed if it was not."""
        for (number, _), index in sorted((following, index) for index, following in enumerate(self._next)):
            slot = index, number
            if number < self._num_numbers[index] and (slot in self._proposals or self._ready(*slot)):
                if slot not in self._proposals:
                    self._ask(*slot)
                return slot
        return None

    @property
    def num_left(self) -> int:
        """Number of trials that have not been proposed."""
        return self.num_all - self._num_launched

    @property
    def num_all(self) -> int:
        """Number of trials of the whole search."""
        return len(self.slots) * self.num_seeds

    def proposals(self, slot: tuple[int, int]) -> list[Proposal]:
        """The trials of a proposed (arm, number): one configuration with each seed."""
        return self._proposals[slot]

    def value(self, slot: tuple[int, int]) -> float | None:
        """The mean objective over the seeds; nan if one of them failed, None if one has not ended."""
        if slot not in self._values:
            values = [self._value_of(proposal.key) for proposal in self.proposals(slot)]
            ended = [value for value in values if value is not None]
            if len(ended) < len(values):
                return None
            self._values[slot] = statistics.fmean(ended)
        return self._values[slot]

    def ended(self) -> bool:
        """Whether every trial of the search has ended, successfully or not."""
        self._update()
        return not self._without_value

    def _ready(self, index: int, number: int) -> bool:
        """Whether configuration `number` of an arm can be proposed: all results that it uses must be known."""
        num_used = len(self._used(index, number))
        while self._num_values[index] < num_used and self.value((index, self._num_values[index])) is not None:
            self._num_values[index] += 1
        return self._num_values[index] >= num_used

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
        for proposal in self._proposals[index, number]:
            self._slots_of.setdefault(proposal.key, []).append((index, number))
        self._changed.add((index, number))

    def _number_of(self, index: int, number: int) -> int:
        """The number of a configuration, counted over all arms.

        It is -1 if an earlier run with a larger `num_trials` proposed the configuration.
        """
        return self._numbers.get((index, number), -1)

    def _propose(self, index: int, number: int) -> dict[str, Any]:
        """The parameters of an arm's configuration: those that are given, and the sampler's for the rest.

        The sampler works on a study in memory with results of `_used` and no others. If it proposes the parameters of
        an earlier configuration, a Halton point replaces them, because training the same twice tells nothing.
        """
        arm, given = self.arms[index], self._given(index, number)
        if given.keys() >= arm.space.keys():
            return {name: given[name] for name in arm.space}
        seed = self._seed_of(arm.name, number)
        num_used = len(self._used(index, number))
        by_gp = self.sampler == "gp" and num_used <= MOST_FOR_GP
        study = self._with_running(index, number) if by_gp else self._history(index, num_used)
        params = sample(study, arm.space, given, sampler="gp" if by_gp else "tpe", seed=seed)
        if any(params == self._params[index, earlier] for earlier in range(number)):  # such as twice the same bound
            return self._halton(arm, number) | given
        return params

    def _with_running(self, index: int, number: int) -> optuna.Study:
        """A study in memory for the Gaussian process: results of `_used`, and the later proposals as running trials.

        A failed configuration counts as the worst one, or the process would propose its surroundings again and again.
        """
        used, space = self._used(index, number), self.arms[index].space
        values = {n: value for n in used if math.isfinite(value := self._values[index, n])}
        violations = self._violations(index, list(values))
        names = next(iter(violations.values()), {})
        worst = {name: max(found[name] for found in violations.values()) for name in names}
        study = optuna.create_study(direction="maximize")
        for n in range(number) if values else ():
            fields: dict[str, Any] = {"state": TrialState.RUNNING}
            if n in used:
                value = values.get(n, min(values.values()))
                fields = {"value": value, "constraints": violations.get(n, worst) or None}
            params = dict(self._params[index, n])
            study.add_trial(optuna.create_trial(params=params, distributions=space, **fields))
        return study

    def _history(self, index: int, num_used: int) -> optuna.Study:
        """A study in memory with the results of an arm's first `num_used` configurations.

        It is kept from one proposal to the next, because an arm's proposals use more and more of its results. Of long
        searches, it has the latest MOST_RESULTS / 2 to MOST_RESULTS results and the NUM_BEST best of the others. Which
        ones depends only on `num_used`.
        """
        half = MOST_RESULTS // 2
        first = max(0, num_used // half - 1) * half
        kept = self._histories.get(index)
        if kept and kept[1] == first and kept[2] <= num_used and self._violations_of is None:
            self._add_results(kept[0], index, range(kept[2], num_used), {})
            self._histories[index] = kept[0], first, num_used
            return kept[0]
        known = [number for number in range(num_used) if math.isfinite(self._values[index, number])]
        violations = self._violations(index, known)  # any new result may change them, so this study is new each time

        def rank(number: int) -> tuple[float, float]:
            return excess(violations.get(number, {})), -self._values[index, number]

        best = sorted((number for number in known if number < first), key=rank)[:NUM_BEST]
        study = optuna.create_study(direction="maximize")
        self._add_results(study, index, [*sorted(best), *range(first, num_used)], violations)
        self._histories[index] = study, first, num_used
        return study

    def _add_results(
        self, study: optuna.Study, index: int, numbers: Iterable[int], violations: Mapping[int, dict[str, float]]
    ) -> None:
        """Add the results of an arm's configurations, except failed ones, to a study."""
        for number in numbers:
            value, params = self._values[index, number], dict(self._params[index, number])
            if math.isfinite(value):
                space, constraints = self.arms[index].space, violations.get(number)
                study.add_trial(
                    optuna.create_trial(params=params, distributions=space, value=value, constraints=constraints)
                )

    def _violations(self, index: int, numbers: Sequence[int]) -> dict[int, dict[str, float]]:
        """By number of a configuration of an arm: by how much it violates each constraint."""
        if self._violations_of is None:
            return {}
        keys = [[proposal.key for proposal in self.proposals((index, number))] for number in numbers]
        return dict(zip(numbers, self._violations_of(keys), strict=True))

    def _given(self, index: int, number: int) -> dict[str, Any]:
        """The parameters that need no results: initial points, then Halton points until there are results."""
        if (index, number) not in self._given_points:
            self._given_points[index, number] = self._make_given(index, number)
        return self._given_points[index, number]

    def _make_given(self, index: int, number: int) -> dict[str, Any]:
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
        return halton_point(arm.space, number, seed=self._seed_of(arm.name))

    def _seed_of(self, *names: object) -> int:
        text = "/".join(map(str, (self.seed, *names)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])

    def _update(self) -> None:
        """Copy new results from the records to the studies. A configuration with a failed trial becomes FAIL."""
        for slot in self._slots_to_look_at():
            value, (index, number) = self.value(slot), slot
            if value is None:
                continue
            self._without_value.discard(slot)
            if slot not in self._untold:
                continue
            if np.isfinite(value):
                self.studies[index].tell(number, value)
            else:
                self.studies[index].tell(number, state=TrialState.FAIL)
            self._untold.remove(slot)

    def _slots_to_look_at(self) -> list[tuple[int, int]]:
        """The proposed configurations that may have got a value since the last call."""
        if self._ended is None:
            return sorted((self._without_value & self._proposals.keys()) | self._untold)
        keys = self._ended()
        self._changed |= {slot for key in keys[self._num_ended :] for slot in self._slots_of.get(key, ())}
        self._num_ended = len(keys)
        slots, self._changed = sorted(self._changed), set()
        return slots


def num_pending(num_parallel: int, num_arms: int, num_seeds: int = 1) -> int:
    """How many configurations of an arm may be under way at once, counting the next one.

    About 1.5 times the number of workers per arm and seed, so that a free worker rarely waits for the slowest trial. It
    is 1 if trials run one at a time.
    """
    if num_parallel == 1:
        return 1
    share = math.ceil(num_parallel / (max(1, num_arms) * num_seeds))
    return share + max(1, share // 2)
