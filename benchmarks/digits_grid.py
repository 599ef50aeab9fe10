"""`python -m benchmarks.digits_grid`: train a dense grid of configurations on digits, to compare search strategies on.

Every configuration is trained with three seeds and three complete schedules: the sweep's 30 epochs, 15 and 8. Networks,
data and learning rate are those of sweeps/digits.py; lam, rho and the weight decay vary over the ranges of
search_spaces/small_cnn.py. A grid point is trained once for each seed, which takes 4 core hours in total.

Every training writes its result as a line of build/digits-grid.jsonl. Trainings with a line are not repeated, so the
same command continues after an interruption. --export writes the compact table that `benchmarks.strategies` reads,
benchmarks/results/digits-grid.csv.gz. Trainings that are in this table are not repeated either.
"""

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._jobs import ConfigJob, run
from benchmarks._measure import RESULTS
from benchmarks._result_table import export, restore
from service.search.space import Arm, choose, make_arms, make_config
from sweeps.digits import SWEEP
from trainables.config import TrialConfig
from trainables.loop import Diverged, Training, load_task
from trainables.pruning import evaluate_pruned

__all__ = ["ARMS", "EPOCHS", "FULL_EPOCHS", "LABELS", "SEEDS", "TABLE"]
__all__ += ["GridJob", "Point", "configure", "grid", "make_arm"]

TABLE = RESULTS / "digits-grid.csv.gz"
LINES = Path("build/digits-grid.jsonl")

ARMS = (("sgd", "hoyer_square"), ("s2sam", "wcr"), ("sam", "wcr"))  # cheapest first
EPOCHS = (8, 15, 30)
FULL_EPOCHS = SWEEP.trial.max_epochs
SEEDS = (0, 1, 2)
# Up to the top of the search space's range for 30 epochs. The penalty and the weight decay shrink the weights by about
# lr * lam * steps and lr * weight_decay * steps, so the optimum of a shorter schedule is higher. The grids of 15 and 8
# epochs therefore have one and two more values at the top.
LAMS = {
    "wcr": (1.5e-6, 5e-6, 1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4),
    "hoyer_square": (1.5e-5, 5e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
}
WEIGHT_DECAYS = (1e-3, 4e-3, 1.25e-2, 2.5e-2, 5e-2, 1e-1, 2e-1)
RHOS = (0.03, 0.1, 0.33)
NUM_MORE = {30: 0, 15: 1, 8: 2}
LABELS = ("optimizer", "regularizer", "epochs", "lam", "rho", "weight_decay", "seed")

Point = Mapping[str, float]


@dataclass(frozen=True)
class GridJob(ConfigJob):
    """One training of a grid point; its labels are the methods, epochs, hyperparameters and seed."""

    def run(self) -> dict[str, Any]:
        """Accuracy on both splits at each sparsity, and the shares of the penalty.

        `diverged` has the reason where there are no accuracies.
        """
        begin = time.process_time()
        task = load_task(self.config)
        training = Training(task, self.config)
        try:
            while not training.finished:
                training.train_to_evaluation(evaluate=False)
        except Diverged as error:
            return {"diverged": str(error), "cpu_s": round(time.process_time() - begin, 1)}
        model = training.trained_model().eval()
        shares = training.penalty_ratio.describe()
        result: dict[str, Any] = {
            name: float(f"{value:.4g}") for name, value in shares.items() if name.startswith("penalty_share")
        }
        for split in ("validation", "test"):
            metrics = evaluate_pruned(task, model, self.config, self.config.levels, split).metrics
            result[split] = {f"{level:g}": round(values["acc"], 6) for level, values in metrics.items()}
        return {**result, "cpu_s": round(time.process_time() - begin, 1)}


def make_arm(optimizer: str, regularizer: str) -> Arm:
    """The sweep's arm without the learning rate, which keeps the sweep's value."""
    (arm,) = make_arms(choose(SWEEP, optimizer=(optimizer,), regularizer=(regularizer,)))

    def searched(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name != "opt/lr"}

    return Arm(arm.choices, searched(arm.space), searched(arm.initial_point))


def grid(arm: Arm, epochs: int) -> dict[str, tuple[float, ...]]:
    """The values of each searched parameter in trainings of this length."""
    num_lams, num_decays = 6 + NUM_MORE[epochs], 5 + NUM_MORE[epochs]
    values = {
        "lam": LAMS[arm.choices["regularizer"]][:num_lams],
        "opt/rho": RHOS,
        "opt/weight_decay": WEIGHT_DECAYS[:num_decays],
    }
    return {name: values[name] for name in arm.space}


def configure(arm: Arm, params: Point, *, epochs: int, seed: int = 0) -> TrialConfig:
    base = base_config(*arm.choices.values())
    opt = {name.removeprefix("opt/"): value for name, value in params.items() if name.startswith("opt/")}
    changes = {"lam": params["lam"], "opt": {**base.opt, **opt}, "max_epochs": epochs, "seed": seed}
    return base.model_copy(update=changes)


@functools.cache
def base_config(optimizer: str, regularizer: str) -> TrialConfig:
    """The configuration of the arm's initial point. Searches make thousands from it without validating each."""
    arm = make_arm(optimizer, regularizer)
    return make_config(SWEEP, arm.choices, arm.initial_point)


def jobs(arm: Arm, epochs: int, seed: int) -> Iterator[GridJob]:
    axes = grid(arm, epochs)
    for values in itertools.product(*axes.values()):
        params = dict(zip(axes, values, strict=True))
        short = {name.removeprefix("opt/"): value for name, value in params.items()}
        labels = {**arm.choices, "epochs": epochs, **short, "seed": seed}
        name = "/".join([arm.name, *(f"{label}={labels[label]:g}" for label in ("epochs", *short, "seed"))])
        yield GridJob(name, labels, configure(arm, params, epochs=epochs, seed=seed))


def all_jobs() -> Iterator[GridJob]:
    """Every training, in an order in which a part of them is useful.

    Arm after arm, the cheapest first, and within an arm seed by seed, the shortest schedules first.
    """
    for choices, seed, epochs in itertools.product(ARMS, SEEDS, EPOCHS):
        yield from jobs(make_arm(*choices), epochs, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, one thread each (default: 2)")
    parser.add_argument("--lines", type=Path, default=LINES, help=f"file with a line for each training ({LINES})")
    parser.add_argument("--export", action="store_true", help=f"write {TABLE.name} from the lines; train nothing")
    args = parser.parse_args(arguments)
    if args.export:
        print(f"{export(args.lines, TABLE, LABELS, SWEEP.trial.levels)} trainings in {TABLE}")
        return 0
    if num := restore(all_jobs(), TABLE, args.lines, LABELS):
        print(f"{num} trainings from {TABLE}")
    failures = run(all_jobs(), args.lines, num_processes=args.processes)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
