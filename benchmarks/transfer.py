"""`python -m benchmarks.transfer`: by which rule does a good lam carry over to another width, weight decay and lr?

Every setting, a width with a weight decay and a learning rate, trains a small residual network on digits with twelve
values of lam, three seeds, SGD and one of two regularizers: 648 trainings for each. Each rule then predicts lam for one
setting from the results of all others (see benchmarks/_transfer_rules.py).

Every training writes its result as a line of build/transfer.jsonl. --export writes the compact table
benchmarks/results/transfer.csv.gz. --write makes docs/transfer.md from that table, and entries of
search_spaces/best.toml. Trainings that have a line or a row are not repeated, so the same command continues after an
interruption.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks._jobs import run
from benchmarks._markdown import replace_section
from benchmarks._measure import RESULTS
from benchmarks._result_table import export, restore
from benchmarks.digits_grid import GridJob, configure, make_arm

__all__ = ["DEPTH", "EPOCHS", "LAMS", "LEVELS", "SEEDS", "SETTINGS", "TABLE", "Setting", "all_jobs"]

TABLE = RESULTS / "transfer.csv.gz"
LINES = Path("build/transfer.jsonl")
PAGE = Path("docs/transfer.md")
START = "<!-- contest: written by python -m benchmarks.transfer --write -->"
END = "<!-- contest end -->"


class Setting(NamedTuple):
    """What a rule for lam may depend on."""

    width: int
    weight_decay: float
    lr: float


SETTINGS = tuple(itertools.starmap(Setting, itertools.product((8, 16, 32), (5e-4, 5e-3, 3e-2), (0.03, 0.1))))
# Wide enough that the best value of each setting has neighbours on both sides: it rises as the weight decay falls.
LAMS = {
    "wcr": tuple(float(f"{10 ** (-6.5 + 0.5 * k):.3g}") for k in range(12)),
    "hoyer_square": tuple(float(f"{10 ** (-5 + 0.4 * k):.3g}") for k in range(12)),
}
SEEDS = (0, 1, 2)
EPOCHS = 15  # 648 trainings of 15 epochs take about a core hour
DEPTH = 3
# How much pruning a network tolerates depends on the setting more than on lam, so the contest needs many sparsities.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.96, 0.98)
LABELS = ("regularizer", "width", "weight_decay", "lr", "lam", "epochs", "seed")
SHARES = ("penalty_share_start", "penalty_share_end")


def all_jobs(epochs: int = EPOCHS) -> Iterator[GridJob]:
    """Every training, in an order in which a part of them is useful.

    Seed by seed, and within a seed every second lam first, in all settings and with both regularizers.
    """
    num_lams = len(LAMS["wcr"])
    order = [*range(0, num_lams, 2), *range(1, num_lams, 2)]
    for seed, index, setting, (regularizer, lams) in itertools.product(SEEDS, order, SETTINGS, LAMS.items()):
        yield make_job(regularizer, setting, lams[index], seed, epochs)


def make_job(regularizer: str, setting: Setting, lam: float, seed: int, epochs: int) -> GridJob:
    params = {"lam": lam, "opt/weight_decay": setting.weight_decay, "opt/lr": setting.lr}
    config = configure(make_arm("sgd", regularizer), params, epochs=epochs, seed=seed)
    model = {"width": setting.width, "depth": DEPTH}
    config = config.model_copy(update={"model": model, "sparsities": LEVELS})
    labels = {"regularizer": regularizer, **setting._asdict(), "lam": lam, "epochs": epochs, "seed": seed}
    name = "/".join([f"sgd + {regularizer}", *(f"{label}={labels[label]:g}" for label in LABELS[1:])])
    return GridJob(name, labels, config)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="trainings at once, one thread each (default: 2)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"epochs of a training (default: {EPOCHS})")
    parser.add_argument("--lines", type=Path, default=LINES, help=f"file with a line for each training ({LINES})")
    parser.add_argument("--export", action="store_true", help=f"write {TABLE.name} from the lines; train nothing")
    parser.add_argument(
        "--write", type=Path, nargs="?", const=PAGE, help=f"write a page ({PAGE}) from {TABLE.name}; train nothing"
    )
    args = parser.parse_args(arguments)
    if args.write:
        from benchmarks._best_values import BEST
        from benchmarks._transfer_page import best_entries, write  # these import this module
        from benchmarks._transfer_rules import read_curves

        curves = read_curves(TABLE)
        write(curves, args.write, START, END)
        if args.write == PAGE:
            replace_section(BEST, f"# {START}", f"# {END}", best_entries(curves))
        return 0
    if args.export:
        print(f"{export(args.lines, TABLE, LABELS, (0.0, *LEVELS), SHARES)} trainings in {TABLE}")
        return 0
    args.lines.parent.mkdir(parents=True, exist_ok=True)
    if num := restore(all_jobs(args.epochs), TABLE, args.lines, LABELS):
        print(f"{num} trainings from {TABLE}")
    failures = run(all_jobs(args.epochs), args.lines, num_processes=args.processes)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
