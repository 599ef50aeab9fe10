"""`python -m benchmarks.cifar10_samplers`: TPE and a Gaussian process on CIFAR-10, with few configurations.

Three times, with other proposals, for SGD with Hoyer-square on a small network: 24 configurations by TPE, the first 8
of these alone, and 8 by a Gaussian process. The first four configurations of all are the same. The selected
configurations are trained on five unseen seeds. Without records, the command continues from those that are committed;
--write rewrites the table in docs/search-strategies.md and runs nothing.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks._markdown import comparison_table, replace_section, table, with_interval
from benchmarks._study import Arm, Found, Study
from service import Sweep
from service.views.tables import number
from sweeps import cifar10
from trainables.config import hyperparameters

PAGE = Path(__file__).parents[1] / "docs" / "search-strategies.md"
START = "<!-- samplers: written by python -m benchmarks.cifar10_samplers -->"
END = "<!-- samplers end -->"
FIRST_SEEDS = (0, 100, 200)
SEARCHES = (("tpe", 24), ("tpe", 8), ("gp", 8))  # sampler, configurations
ARM: Arm = ("sgd", "hoyer_square")

SWEEP = cifar10.SWEEP.changed(
    architecture="small_resnet",
    model={"width": 8},
    train_size=5000,
    max_epochs=10,
    num_evaluations=1,
    lr_schedule="one_cycle",
    opt={"lr": 0.1, "weight_decay": 5e-4},
    target_sparsity=0.9,
    sparsities=(0.8, 0.95),
    optimizer=ARM[:1],
    regularizer=ARM[1:],
    hold=("model/width", "opt/lr"),
    bounds={"lam": (1e-6, 1e-2), "opt/weight_decay": (5e-4, 5e-2)},
    num_search_seeds=1,
    num_seeds=5,
    race=False,
    keep="none",
    export=False,
)


def sweep_of(sampler: str, num_trials: int, first_seed: int) -> Sweep:
    """One search. The shorter one by TPE takes the trials of the longer one."""
    shorter = (sampler, num_trials) == ("tpe", 8)
    return SWEEP.changed(
        seed=first_seed,
        name=f"c10_{sampler}{8 if shorter else ''}_{first_seed}",
        sampler=sampler,
        num_trials=num_trials,
        adopt=(f"c10_tpe_{first_seed}",) if shorter else (),
    )


def studies(runs: Path, data_root: Path | None = None) -> dict[tuple[str, int, int], Study]:
    """(sampler, configurations, first seed) -> its sweep, in the order in which they run."""
    places = {"runs": runs, **({"data_root": data_root} if data_root else {})}
    return {
        (*search, seed): Study((sweep_of(*search, seed).model_copy(update=places),), {})
        for seed in FIRST_SEEDS
        for search in SEARCHES
    }


def section(found: Mapping[tuple[str, int, int], Found]) -> str:
    """The table of the searches, and the paired differences of what they selected."""
    rows, comparisons = [], []
    for (sampler, num, seed), one in found.items():
        if ARM not in one.arms:
            continue
        settings = hyperparameters(one.arms[ARM][0].config)
        cells = [with_interval(list(one.values(ARM, level).values())) for level in one.levels]
        chosen = [number(settings[name]) for name in ("lam", "weight_decay")]
        rows.append([str(seed), sampler, str(num), *chosen, *cells])
        if sampler == "gp":
            for other in (8, 24):
                tpe = found["tpe", other, seed]
                name = f"{seed}: {num} by gp, against {other} by tpe"
                comparisons.append((name, one.at_target(ARM), tpe.at_target(ARM)))
    if not rows:
        return "Nothing has run yet."
    levels = [f"{level:g}" for level in SWEEP.trial.levels]
    header = ["first seed", "sampler", "configurations", "lam", "weight decay", *levels]
    return f"{table(header, rows)}\n\n{comparison_table(comparisons)}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="rewrite the table from the records; run nothing")
    parser.add_argument("--runs", type=Path, default=SWEEP.runs, help="folder of all records")
    parser.add_argument("--data-root", type=Path, help="folder with CIFAR-10; default: download it")
    args = parser.parse_args(arguments)
    found = {}
    for key, study in studies(args.runs, args.data_root).items():
        study.restore()
        if not args.write:
            study.run()
        found[key] = study.found()
    replace_section(PAGE, START, END, section(found))


if __name__ == "__main__":
    main()
