"""`python -m benchmarks.study`: what holds on CIFAR-10, under equal budgets; docs/study.md is the plan and the result.

Each part is a network with the same methods, budget and seeds. The command trains what is missing, part after part, and
rewrites the generated sections of the page. After an interruption it continues. Where there are no records, it
continues from those that are committed in benchmarks/results/. --export writes the committed records and the page
without running anything; --write writes the page alone. CIFAR-10 is downloaded unless --data-root has it.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._markdown import Comparison, comparison_table, paragraph, replace_section, table, with_interval
from benchmarks._study import Arm, Found, Study
from service import Sweep
from sweeps import cifar10, cifar10_methods
from trainables.config import TrialConfig

__all__ = ["PARTS", "Part", "study_of", "tiny"]

PAGE = Path(__file__).parents[1] / "docs" / "study.md"
DENSE_LOSS = 0.02  # of test accuracy, that the smallest network of an arm may lose against dense SGD


@dataclass(frozen=True)
class Part:
    """One network of the study.

    Args:
        title: Of its section.
        sweeps: They differ in their arms and their names alone.
        planned: By title, the pairs of arms that are compared (see `Study`).
        default: Whether the command runs it without being asked to.
    """

    title: str
    sweeps: tuple[Sweep, ...]
    planned: Mapping[str, Sequence[tuple[Arm, Arm]]]
    default: bool = True


def changed(sweep: Sweep, trial: Mapping[str, Any] | None = None, **fields: Any) -> Sweep:
    """The sweep with other values, of its own or of its trials' configuration, validated."""
    own = {name: getattr(sweep, name) for name in sweep.model_fields_set}
    template = TrialConfig.model_validate({**dict(sweep.trial), **(trial or {})})
    return Sweep(**{**own, "trial": template, **fields})


def questions(optimizers: Sequence[str], others: Sequence[str]) -> dict[str, list[tuple[Arm, Arm]]]:
    """What is asked of each network: WCR against none and against other regularizers, optimizers against SGD."""
    return {
        "WCR against no regularizer": [((o, "wcr"), (o, "none")) for o in optimizers],
        f"WCR against {' and '.join(others)}": [((o, "wcr"), (o, other)) for other in others for o in optimizers],
        "Optimizers against SGD, without a regularizer": [
            ((o, "none"), ("sgd", "none")) for o in optimizers if o != "sgd"
        ],
    }


BASE = cifar10_methods.SWEEP
REDUCED: dict[str, Any] = {"optimizer": ("sgd", "sam", "s2sam"), "regularizer": ("none", "hoyer_square", "wcr")}
MORE = changed(
    BASE,
    name="cifar10_methods_more",
    optimizer=("sgd",),
    regularizer=("weight_factorization", "l0_hard_concrete"),
)
WIDTH_16 = changed(BASE, {"model": {"width": 16, "depth": 3}}, name="cifar10_methods_width_16", **REDUCED)
VIT = changed(
    BASE,
    {
        "task": "vit",
        "architecture": "vit",
        "model": {
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_size": 128,
        },
        "max_epochs": 12,
    },
    name="cifar10_methods_vit",
    **REDUCED,
)
RESNET18 = changed(
    cifar10.SWEEP,
    name="cifar10_methods_resnet18",
    num_trials=BASE.num_trials,
    num_search_seeds=BASE.num_search_seeds,
    num_seeds=BASE.num_seeds,
    race=False,
    **REDUCED,
)
FEWER = questions(REDUCED["optimizer"], ("hoyer_square",))
PARTS = {
    "width8": Part(
        "Residual network of width 8",
        (BASE, MORE),
        questions(BASE.optimizer, ("l1", "hoyer_square"))
        | {
            "Weight factorization and L0 gates, with SGD": [
                (("sgd", ours), ("sgd", theirs))
                for ours in MORE.regularizer
                for theirs in ("none", "l1", "hoyer_square")
            ]
        },
    ),
    "width16": Part("Residual network of width 16", (WIDTH_16,), FEWER),
    "vit": Part("Vision Transformer", (VIT,), FEWER),
    "resnet18": Part("ResNet-18, the paper's setting", (RESNET18,), FEWER, default=False),
}


def study_of(part: Part, runs: Path | None = None, data_root: Path | None = None, **fields: Any) -> Study:
    """The study of a part, with its records in the folder `runs`."""
    fields |= {name: value for name, value in (("runs", runs), ("data_root", data_root)) if value is not None}
    return Study(tuple(sweep.model_copy(update=fields) for sweep in part.sweeps), part.planned)


def tiny(part: Part) -> Part:
    """The part with its methods and its network, but with the least of everything else: to try the program."""
    trial = {"max_epochs": 1, "train_size": 32, "batch_size": 16, "eval_size": 64}
    budget = {"num_trials": 1, "num_search_seeds": 1, "num_seeds": 1}
    return dataclasses.replace(part, sweeps=tuple(changed(sweep, trial, **budget) for sweep in part.sweeps))


# ---- what the page has beside accuracy -----------------------------------------------------------------------------


def size_comparisons(found: Found) -> list[Comparison]:
    """With SGD and SAM: the MACs that are left after pruning to the target and shrinking, against no regularizer."""
    planned = [((o, r), (o, "none")) for o in ("sgd", "sam") for r in ("l1", "hoyer_square", "wcr")]
    return [
        (
            f"{' + '.join(ours)}, against {' + '.join(theirs)}",
            *(macs(found, arm, found.target) for arm in (ours, theirs)),
        )
        for ours, theirs in planned
        if ours[1] in found.sweep.regularizer
    ]


def macs(found: Found, arm: Arm, sparsity: float) -> dict[int, float]:
    """Seed -> fraction of the dense network's MACs that is left after pruning and exact shrinking."""
    return found.values(arm, sparsity, "macs_left", "curve")


def smallest(found: Found) -> str:
    """Each arm at the highest sparsity that keeps dense SGD's accuracy but for `DENSE_LOSS`, smallest network first."""
    needed = statistics.fmean(found.values(("sgd", "none"), 0.0).values()) - DENSE_LOSS
    rows = []
    for arm in found.arms:
        kept = [level for level in found.levels if statistics.fmean(found.values(arm, level).values()) >= needed]
        if not kept:
            rows.append((1.1, [*arm, "-", "-", "-"]))
            continue
        left = list(macs(found, arm, kept[-1]).values())
        accuracy = with_interval(list(found.values(arm, kept[-1]).values()))
        rows.append((statistics.fmean(left), [*arm, f"{kept[-1]:g}", accuracy, with_interval(left)]))
    rows.sort(key=lambda row: row[0])
    header = ["optimizer", "regularizer", f"highest sparsity with {needed:.3f}", "accuracy there", "MACs left there"]
    return table(header, [cells for _, cells in rows])


def costs(found: Found) -> str:
    """Seconds of a training relative to SGD without a regularizer, which ran on the same machine."""
    medians = {arm: statistics.median(t.report["seconds"] for t in trials) for arm, trials in found.arms.items()}
    base = medians["sgd", "none"]
    optimizers, regularizers = (list(dict.fromkeys(arm[i] for arm in medians)) for i in (0, 1))
    rows = [
        [
            optimizer,
            *(f"{medians[optimizer, r] / base:.2f}" if (optimizer, r) in medians else "-" for r in regularizers),
        ]
        for optimizer in optimizers
    ]
    return table(["optimizer", *regularizers], rows)


def section(found: Found, figure: str) -> str:
    """The generated section of a part."""
    parts = [found.section(figure)]
    if ("sgd", "none") in found.arms:
        parts += [
            paragraph(
                "The smallest network of each arm: the highest sparsity at which its mean test accuracy is at most "
                f"{DENSE_LOSS:g} below that of the dense network of SGD without a regularizer. MACs left: the fraction "
                "of multiply-accumulate operations after exact shrinking, the mean of the seeds with its interval."
            ),
            smallest(found),
            paragraph(f"Paired differences of the MACs left at {found.target:g}, whatever the accuracy:"),
            comparison_table(size_comparisons(found)),
            "Seconds of a training, relative to SGD without a regularizer (medians):",
            costs(found),
        ]
    return "\n\n".join(parts)


def write(name: str, found: Found, page: Path) -> None:
    figure = page.with_name(f"{page.stem}-{name}.png")
    replace_section(page, f"<!-- part: {name} -->", f"<!-- end of {name} -->", section(found, figure.name))
    if found.arms:
        found.draw().savefig(figure, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="run this part alone; repeatable")
    parser.add_argument("--export", action="store_true", help="write the compact records and the page; run nothing")
    parser.add_argument("--write", action="store_true", help="rewrite the page from the records; run nothing")
    parser.add_argument("--tiny", action="store_true", help="one short training of everything, to try the program")
    parser.add_argument("--runs", type=Path, default=BASE.runs, help="folder of all records")
    parser.add_argument("--data-root", type=Path, help="folder with CIFAR-10; default: download it")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write")
    args = parser.parse_args(arguments)
    for name in args.part or [name for name, part in PARTS.items() if part.default]:
        part = tiny(PARTS[name]) if args.tiny else PARTS[name]
        study = study_of(part, args.runs, args.data_root)
        if not args.tiny:
            study.restore()
        if not (args.export or args.write):
            study.run()
        if not (args.write or args.tiny):
            study.export()
        write(name, study.found(), args.page)


if __name__ == "__main__":
    main()
