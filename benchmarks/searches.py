"""How busy a search keeps its workers, and what it finds: `python -m benchmarks.searches`. Simulated; a minute.

One arm of lam and rho, whose trials take 0.8 to 1.2 units of time, every tenth 0.4 of that (they diverge), and give a
smooth function of both with a noise of 0.01, whose best value, 1, lies elsewhere in each of 40 searches. Beside the
rule of `service.search.proposals.lag`: no trial ahead of the workers, twice the rule's, and Optuna's TPE as one would run it
by hand, which sees whatever has ended, so that its trials depend on who was first.
The numbers go to benchmarks/results/DATE-searches.json, where docs/performance.md has its table from.
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
from service.search.proposals import FINISHED, Arm, Search, lag
from trainables.config import TrialConfig

__all__ = ["optuna_by_hand", "ours", "simulate"]

SPACE = {"lam": FloatDistribution(1e-6, 1e-3, log=True), "opt/rho": FloatDistribution(0.02, 1.0, log=True)}
SIZES = ((24, 2), (48, 4), (64, 8), (64, 16))  # trials, workers
NUM_SEARCHES = 40

Params = dict[str, float]


class Task:
    """What a trial at (lam, rho) takes and gives, in the search `seed`."""

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
    """(share of the workers' time that is spent in trials, best value). search: None where it waits for a result."""
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
    """`Search`, with this lag: (proposals, tell) for `simulate`."""
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
        outcome=values.get,
        num_parallel=num_workers,
    )
    search.lag = ahead

    def proposals() -> Iterator[Params | None]:
        while (proposal := search.next()) is not FINISHED:
            if proposal is None:
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
        rule = lag(num_workers, 1)
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
