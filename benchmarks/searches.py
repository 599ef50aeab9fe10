"""How busy a search keeps its workers, and what it finds: `python -m benchmarks.searches`, a minute.

The trials are simulated. One arm searches lam and rho in 40 searches. A trial takes 0.8 to 1.2 units of time; every
tenth diverges after 0.4 of that. Its value is a smooth function of lam and rho with a noise of 0.01. The best value is
1, at another place in each search.

Four rules are compared: the one of `service.search.proposals.num_pending`; no configuration ahead of the workers; twice
as many as the rule; and Optuna's TPE on its own, which uses every result that there is, so that its trials depend on
which trial ended first. The numbers are written to benchmarks/results/DATE-searches.json, which the table in
docs/performance.md is made from.
"""

import argparse
import functools
import heapq
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution

from benchmarks._measure import RESULTS
from service.search.proposals import Search, num_pending
from service.search.queue import Next, Proposal
from service.search.space import Arm
from trainables.config import TrialConfig

__all__ = ["optuna_by_hand", "ours", "simulate"]

SPACE = {"lam": FloatDistribution(1e-6, 1e-3, log=True), "opt/rho": FloatDistribution(0.02, 1.0, log=True)}
SIZES = ((24, 2), (48, 4), (64, 8), (64, 16))  # trials, workers
NUM_SEARCHES = 40

Params = dict[str, float]


class Task:
    """The time and the value of a trial at (lam, rho), in the search `seed`."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)
        self._best = self._rng.uniform((-5.8, -1.5), (-3.2, -0.1))  # log10 of lam and rho

    def __call__(self, params: Params) -> tuple[float, float]:
        """(time, value)"""
        seconds = self._rng.uniform(0.8, 1.2) * (0.4 if self._rng.random() < 0.1 else 1.0)
        lam, rho = np.log10([params["lam"], params["opt/rho"]]) - self._best
        value = math.exp(-(lam**2 + 3.3 * rho**2 + 0.5 * lam * rho)) + 0.01 * self._rng.normal()
        return float(seconds), value


def simulate(task: Task, search: Iterator[Params | None], tell: Callable[[Params, float], None], num_workers: int):
    """(share of the workers' time spent in trials, best value). `search` yields None while it waits for a result."""
    now, busy, values = 0.0, 0.0, []
    running: list[tuple[float, int, Params, float]] = []
    while True:
        while len(running) < num_workers and (params := next(search, None)) is not None:
            seconds, value = task(params)
            busy += seconds
            heapq.heappush(running, (now + seconds, len(values), params, value))
            values.append(value)
        if not running:
            return busy / num_workers / now, max(values)
        now, _, params, value = heapq.heappop(running)
        tell(params, value)


def ours(seed: int, num_trials: int, num_workers: int, ahead: int):
    """`Search` with `ahead` pending configurations: (proposals, tell) for `simulate`."""
    values: dict[str, float] = {}
    keys: dict[tuple[float, float], str] = {}

    def config(choices: Any, params: Any) -> TrialConfig:
        opt = {"lr": 0.1, "rho": params["opt/rho"]}
        return TrialConfig(
            **choices,
            dataset="digits",
            architecture="small_resnet",
            max_epochs=1,
            batch_size=8,
            target_sparsity=0.9,
            lam=params["lam"],
            opt=opt,
        )

    search = Search(
        "simulated",
        [Arm({"optimizer": "sam", "regularizer": "wcr"}, SPACE)],
        storage=optuna.storages.InMemoryStorage(),
        num_trials=num_trials,
        seed=seed,
        make_config=config,
        value_of=values.get,
        num_parallel=num_workers,
    )
    search.num_pending = ahead

    def proposals() -> Iterator[Params | None]:
        while (proposal := search.next()) is not Next.FINISHED:
            if not isinstance(proposal, Proposal):
                yield None
                continue
            params = {"lam": proposal.config.lam, "opt/rho": proposal.config.opt["rho"]}
            keys[params["lam"], params["opt/rho"]] = proposal.config.key
            yield params

    def tell(params: Params, value: float) -> None:
        values[keys[params["lam"], params["opt/rho"]]] = value

    return proposals(), tell


def optuna_by_hand(seed: int, num_trials: int):
    """A study that is asked whenever a worker is free: (proposals, tell) for `simulate`."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    trials: dict[float, optuna.Trial] = {}

    def proposals() -> Iterator[Params]:
        for _ in range(num_trials):
            trial = study.ask(SPACE)
            trials[trial.params["lam"]] = trial
            yield dict(trial.params)

    return proposals(), lambda params, value: study.tell(trials[params["lam"]], value)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "num_searches": NUM_SEARCHES, "results": {}}
    for num_trials, num_workers in SIZES:
        rule = num_pending(num_workers, 1)
        sizes = {"num_trials": num_trials, "num_workers": num_workers}
        variants: dict[str, Callable[[int], Any]] = {
            "the rule": functools.partial(ours, **sizes, ahead=rule),
            "none ahead": functools.partial(ours, **sizes, ahead=num_workers),
            "twice the rule": functools.partial(ours, **sizes, ahead=2 * rule),
            "Optuna by hand": functools.partial(optuna_by_hand, num_trials=num_trials),
        }
        case = f"{num_trials} trials, {num_workers} workers"
        print(f"\n{case}")
        for name, make in variants.items():
            runs = [simulate(Task(seed), *make(seed), num_workers) for seed in range(NUM_SEARCHES)]
            busy, best = statistics.mean(b for b, _ in runs), [v for _, v in runs]
            error = statistics.stdev(best) / math.sqrt(len(best))
            row = {"busy": busy, "best": statistics.mean(best), "best_error": error}
            record["results"].setdefault(case, {})[name] = row
            print(f"  {name:16s} busy {busy:.3f}   best {row['best']:.4f} ± {error:.4f}")
    path = RESULTS / f"{record['date']}-searches.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
