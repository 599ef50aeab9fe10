"""Search strategies: ways to spend epochs on the trainings of one arm."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from benchmarks._grid_table import Trainings
from benchmarks.digits_grid import FULL_EPOCHS, Point, configure
from service.search.proposals import Search
from service.search.queue import Proposal
from service.search.space import Arm

__all__ = ["BY_TPE", "STRATEGIES", "Strategy", "halving_sizes", "order", "scaled_point", "search"]

BY_TPE = "Halton, then TPE"  # a sweep's search when the strategies were compared
SCALED = ("lam", "opt/weight_decay")  # what shrinks the weights in proportion to the number of steps


@dataclass(frozen=True)
class Strategy:
    """A way to spend epochs on an arm.

    Args:
        run: Called with the arm, the trainings to spend, the budget in epochs and a seed.
        lengths: The shorter schedules that it trains.
        planned: Whether the budget decides what it trains first. The others stop wherever the budget ends, so that one
            run shows every smaller budget too.
    """

    run: Callable[[Arm, Trainings, int, int], None]
    lengths: tuple[int, ...] = ()
    planned: bool = False


def search(
    arm: Arm,
    train: Trainings,
    num_trials: int,
    seed: int,
    *,
    epochs: int = FULL_EPOCHS,
    num_seeds: int = 1,
    first: Sequence[Point] = (),
    kind: type[Search] = Search,
    sampler: str = "tpe",
    **more: Any,
) -> list[tuple[float, Point]]:
    """The sweep's own search, with one trial at a time: (accuracy, configuration) of every training.

    Args:
        kind: The class of the search.
        more: Further arguments of that class.
    """
    values: dict[str, float] = {}
    found: list[tuple[float, Point]] = []
    proposals = kind(
        "table",
        [arm],
        storage=optuna.storages.InMemoryStorage(),
        num_trials=num_trials,
        seed=seed,
        make_config=lambda _, params: configure(arm, params, epochs=epochs),
        value_of=values.get,
        first={arm.name: list(first)},
        num_seeds=num_seeds,
        sampler=sampler,
        **more,
    )
    while isinstance(proposal := proposals.next(), Proposal):
        params = {name: proposal.config.get(name) for name in arm.space}
        values[proposal.key] = train(params, epochs)
        found.append((values[proposal.key], params))
    return found


def optuna_search(study: optuna.Study, arm: Arm, train: Trainings, num_trials: int) -> None:
    """Ask a study of Optuna's for configurations to train in full."""
    for _ in range(num_trials):
        trial = study.ask(arm.space)
        value = train(trial.params, FULL_EPOCHS)
        if math.isfinite(value):
            study.tell(trial, value)
        else:
            study.tell(trial, state=TrialState.FAIL)


def by_a_sweep(num_seeds: int, sampler: str = "tpe") -> Strategy:
    def run(arm: Arm, train: Trainings, budget: int, seed: int) -> None:
        search(arm, train, budget // (num_seeds * FULL_EPOCHS), seed, num_seeds=num_seeds, sampler=sampler)

    return Strategy(run)


def sampler(make: Callable[[int], BaseSampler]) -> Strategy:
    """One of Optuna's samplers, after the initial point if there is one."""

    def run(arm: Arm, train: Trainings, budget: int, seed: int) -> None:
        study = optuna.create_study(direction="maximize", sampler=make(seed))
        if arm.initial_point:
            study.enqueue_trial(arm.initial_point)
        optuna_search(study, arm, train, budget // FULL_EPOCHS)

    return Strategy(run)


def halving(*lengths: int, scale: bool = True) -> Strategy:
    """Search with short schedules; train the best configurations again with each longer one, at last in full."""

    def run(arm: Arm, train: Trainings, budget: int, seed: int) -> None:
        first, *sizes = halving_sizes(lengths, budget)
        ranked = [point for _, point in short_search(arm, train, first, seed, epochs=lengths[0], scale=scale)]
        for size, epochs in zip(sizes, (*lengths[1:], FULL_EPOCHS), strict=True):
            ranked = ranked[:size]
            if epochs != FULL_EPOCHS:
                values = [train(scaled_point(point, epochs) if scale else point, epochs) for point in ranked]
                ranked = [ranked[i] for i in order(values)]
        for point in ranked:
            train(point, FULL_EPOCHS)

    return Strategy(run, lengths, planned=True)


def warm_start(length: int, *, share: float = 0.25, num_points: int = 4) -> Strategy:
    """Spend a share of the budget on a search with a short schedule; its best configurations start a search in full."""

    def run(arm: Arm, train: Trainings, budget: int, seed: int) -> None:
        num_full = max(1, int(budget * (1 - share)) // FULL_EPOCHS)
        num_short = max(1, (budget - num_full * FULL_EPOCHS) // length)
        ranked = [point for _, point in short_search(arm, train, num_short, seed, epochs=length, scale=True)]
        without_initial = Arm(arm.choices, arm.space)  # the short search has tried it
        search(without_initial, train, num_full, seed, first=ranked[:num_points])

    return Strategy(run, (length,), planned=True)


def prior(length: int, *, share: float = 0.25) -> Strategy:
    """Spend a share of the budget on a search with a short schedule; TPE then learns from its results too.

    The first training in full repeats the best configuration. The short results are shifted by what it gained, because
    a shorter schedule is less accurate.
    """

    def run(arm: Arm, train: Trainings, budget: int, seed: int) -> None:
        num_full = max(1, int(budget * (1 - share)) // FULL_EPOCHS)
        num_short = max(1, (budget - num_full * FULL_EPOCHS) // length)
        found = short_search(arm, train, num_short, seed, epochs=length, scale=True)
        (best, point), *_ = found
        gain = train(point, FULL_EPOCHS) - best
        study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=seed, n_startup_trials=0))
        for value, short_point in found:
            if math.isfinite(value + gain):
                study.add_trial(
                    optuna.create_trial(params=short_point, distributions=arm.space, value=min(1.0, value + gain))
                )
        optuna_search(study, arm, train, num_full - 1)

    return Strategy(run, (length,), planned=True)


def short_search(
    arm: Arm, train: Trainings, num_trials: int, seed: int, *, epochs: int, scale: bool
) -> list[tuple[float, Point]]:
    """A search with a short schedule: (accuracy, the configuration to train in full), best first."""
    arm_there = scaled(arm, epochs) if scale else arm
    found = search(arm_there, train, num_trials, seed, epochs=epochs)
    ranked = [found[i] for i in order([value for value, _ in found])]
    return [(value, scaled_back(point, epochs, arm) if scale else point) for value, point in ranked]


def order(values: Sequence[float]) -> list[int]:
    """Indices from the highest value to the lowest; nan comes last, and of equal values the earlier comes first."""
    return sorted(range(len(values)), key=lambda i: -values[i] if math.isfinite(values[i]) else math.inf)


def halving_sizes(lengths: Sequence[int], budget: int) -> list[int]:
    """How many configurations each stage of halving trains, the last one in full.

    A stage trains as many configurations as the one before it times the ratio of their lengths, rounded up, so each
    costs about the same. The first stage is as large as the budget permits, and has one configuration at least.
    """

    def sizes(first: int) -> list[int]:
        found = [first]
        for short, long in zip(lengths, (*lengths[1:], FULL_EPOCHS), strict=True):
            found.append(math.ceil(found[-1] * short / long))
        return found

    first = 1
    while sum(n * epochs for n, epochs in zip(sizes(first + 1), (*lengths, FULL_EPOCHS), strict=True)) <= budget:
        first += 1
    return sizes(first)


def scaled(arm: Arm, epochs: int) -> Arm:
    """The arm for a shorter schedule: lam and the weight decay are as many times larger as the schedule is shorter.

    The penalty and the weight decay then shrink the weights by about as much as in full training.
    """
    space = dict(arm.space)
    for name in SCALED:
        distribution = arm.space[name]
        assert isinstance(distribution, FloatDistribution)
        factor = FULL_EPOCHS / epochs
        space[name] = FloatDistribution(distribution.low * factor, distribution.high * factor, log=distribution.log)
    return Arm(arm.choices, space, scaled_point(arm.initial_point, epochs))


def scaled_point(point: Point, epochs: int) -> dict[str, float]:
    return {name: value * FULL_EPOCHS / epochs if name in SCALED else value for name, value in point.items()}


def scaled_back(point: Point, epochs: int, arm: Arm) -> dict[str, float]:
    """The configuration for full length, within the arm's ranges despite rounding."""
    back = {name: value * epochs / FULL_EPOCHS if name in SCALED else value for name, value in point.items()}
    ranges = {name: d for name, d in arm.space.items() if isinstance(d, FloatDistribution)}
    return {name: min(max(value, ranges[name].low), ranges[name].high) for name, value in back.items()}


STRATEGIES: dict[str, Strategy] = {
    BY_TPE: by_a_sweep(num_seeds=1),
    f"{BY_TPE}, two seeds": by_a_sweep(num_seeds=2),
    "Halton, then GP": by_a_sweep(num_seeds=1, sampler="gp"),
    "random": sampler(lambda seed: RandomSampler(seed=seed)),
    "Optuna's default TPE": sampler(lambda seed: TPESampler(seed=seed)),
    "GPSampler": sampler(lambda seed: GPSampler(seed=seed, n_startup_trials=4, deterministic_objective=False)),
    "halving 8, 30": halving(8),
    "halving 8, 30, unscaled": halving(8, scale=False),
    "halving 15, 30": halving(15),
    "halving 8, 15, 30": halving(8, 15),
    "warm start from 8": warm_start(8),
    "warm start from 15": warm_start(15),
    "prior from 8": prior(8),
}
