"""`python -m benchmarks.study`: what holds on CIFAR-10, under equal budgets; docs/study.md is the plan and the result.

Each part is a network with the same methods, budget and seeds. The command trains what is missing, part after part, and
rewrites the generated sections of the page, of search_spaces/best.toml and of the README. After an interruption it
continues. Where there are no records, it continues from those that are committed in benchmarks/results/. --export
writes the committed records and the sections without running anything; --write does not write records. CIFAR-10 is
downloaded unless --data-root has it.
"""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import digits_methods
from benchmarks._best_values import BEST, best_entries
from benchmarks._markdown import paragraph, replace_section
from benchmarks._study import Arm, Found, Study
from benchmarks._study_answers import answers, draw_answers
from benchmarks._study_page import (
    added_section,
    carried_section,
    criteria_section,
    first_selection_section,
    in_short,
    lam_ratios,
    recalibrated_section,
    section,
)
from service import Sweep
from service.driver import run_reprune
from service.records.state import State
from sweeps import cifar10, cifar10_methods
from trainables.pruning_method import PruningMethod

__all__ = ["CRITERIA", "CRITERIA_ARMS", "PARTS", "Part", "added_sweeps", "carried_sweeps", "study_of", "tiny"]

PAGE = Path(__file__).parents[1] / "docs" / "study.md"
README = Path(__file__).parents[1] / "README.md"
REDUCED: dict[str, Any] = {"optimizer": ("sgd", "sam", "s2sam"), "regularizer": ("none", "hoyer_square", "wcr")}
MARGIN = 0.01  # of accuracy: a smaller difference is of no importance

# Which criteria prune the confirmed networks of width 8 again.
RECALIBRATED = PruningMethod(recalibrate=True)
CRITERIA = (
    PruningMethod(),  # magnitude, global
    RECALIBRATED,
    PruningMethod(scope="uniform"),
    PruningMethod(criterion="lamp"),
    PruningMethod(criterion="compensation"),
)
CRITERIA_ARMS = tuple((o, r) for o in ("sgd", "sam") for r in ("none", "hoyer_square", "wcr"))
CARRIED_ARMS = (("sgd", "hoyer_square"), ("sgd", "wcr"))
ADDED_TO = ("sgd", "sam", "s2sam")
ADDED_LAM = (1e-7, 1e-3)  # a decade more than in the searches of all parameters
FOLLOWING = ("added", "carried")  # parts that follow from the results of others
IN_SHORT = (("sgd", "none"), ("sam", "none"), ("sam", "wcr"))  # and the best arm: the README's rows


@dataclass(frozen=True)
class Part:
    """One network of the study.

    Args:
        title: Its name in tables.
        sweeps: They differ in their arms and their names alone.
        planned: By title, the pairs of arms that are compared (see `Study`).
        default: Whether the command runs it without being asked to.
        continued: Another part's sweep whose search this part goes on with (see `Study`).
    """

    title: str
    sweeps: tuple[Sweep, ...]
    planned: Mapping[str, Sequence[tuple[Arm, Arm]]]
    default: bool = True
    continued: Sweep | None = None


def questions(sweep: Sweep) -> dict[str, list[tuple[Arm, Arm]]]:
    """What is asked of each network: regularizers against none, WCR against the others, optimizers against SGD."""
    optimizers = sweep.optimizer
    others = [regularizer for regularizer in sweep.regularizer if regularizer not in ("none", "wcr")]
    names = " and ".join(others)
    return {
        "WCR against no regularizer": [((o, "wcr"), (o, "none")) for o in optimizers],
        f"WCR against {names}": [((o, "wcr"), (o, other)) for other in others for o in optimizers],
        f"{names} against no regularizer": [((o, other), (o, "none")) for other in others for o in optimizers],
        "Optimizers against SGD, without a regularizer": [
            ((o, "none"), ("sgd", "none")) for o in optimizers if o != "sgd"
        ],
    }


BASE = cifar10_methods.SWEEP
FIRST = BASE.changed(optimizer=REDUCED["optimizer"])  # the arms of the paper's claims come first
OTHERS = BASE.changed(
    name="cifar10_methods_others",
    optimizer=tuple(optimizer for optimizer in BASE.optimizer if optimizer not in FIRST.optimizer),
)
MORE = BASE.changed(
    name="cifar10_methods_more",
    optimizer=("sgd",),
    regularizer=("weight_factorization", "l0_hard_concrete"),
)
WIDTH_16 = BASE.changed(model={"width": 16, "depth": 3}, name="cifar10_methods_width_16", **REDUCED)
SMALL_VIT = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_layers": 4, "num_heads": 4, "mlp_size": 128}
VIT = BASE.changed(
    task="vit",
    architecture="vit",
    model=SMALL_VIT,
    max_epochs=12,
    name="cifar10_methods_vit",
    **REDUCED,
)
RECALIBRATED_8 = BASE.changed(name="cifar10_methods_recalibrated", recalibrate=True, **REDUCED)
WIDER = {"opt/lr": (0.02, 2.0), "opt/weight_decay": (5e-5, 0.05), "opt/rho": (0.002, 0.5), "wcr.lam": (1e-7, 1e-2)}
WIDER_8 = RECALIBRATED_8.changed(name="cifar10_methods_wider", bounds=WIDER, num_trials=20)
SELECTION = ("num_trials", "num_search_seeds", "num_finalists", "num_finalist_seeds", "sampler")
BUDGET = {name: getattr(BASE, name) for name in (*SELECTION, "num_seeds", "race")}
RESNET18 = cifar10.SWEEP.changed(name="cifar10_methods_resnet18", **BUDGET, **REDUCED)
WITH_SGD = {
    "Weight factorization and L0 gates, with SGD": [
        (("sgd", ours), ("sgd", theirs)) for ours in MORE.regularizer for theirs in ("none", "l1", "hoyer_square")
    ]
}
PARTS = {
    "width8": Part("width 8", (FIRST, MORE, OTHERS), questions(BASE) | WITH_SGD),
    "width16": Part("width 16", (WIDTH_16,), questions(WIDTH_16)),
    "vit": Part("ViT", (VIT,), questions(VIT)),
    "width8_recalibrated": Part("width 8, recalibrated", (RECALIBRATED_8,), questions(RECALIBRATED_8)),
    "width8_wider": Part(
        "width 8, recalibrated, wider ranges", (WIDER_8,), questions(WIDER_8), continued=RECALIBRATED_8
    ),
    "resnet18": Part("ResNet-18", (RESNET18,), questions(RESNET18), default=False),
}


def study_of(part: Part, runs: Path, data_root: Path | None = None, results: Path | None = None) -> Study:
    """The study of a part, with its records in the folder `runs` and, by default, its committed ones."""
    places = {"runs": runs, **({"data_root": data_root} if data_root else {})}
    sweeps = tuple(sweep.model_copy(update=places) for sweep in part.sweeps)
    return Study(sweeps, part.planned, MARGIN, continued=part.continued, **({"results": results} if results else {}))


def tiny(part: Part) -> Part:
    """The part with its methods and its network, but with the least of everything else: to try the program."""
    least: dict[str, Any] = {"max_epochs": 1, "train_size": 32, "batch_size": 16, "eval_size": 64}
    least |= {"num_trials": 1, "num_search_seeds": 1, "num_seeds": 1}
    sweeps = tuple(sweep.changed(name=f"{sweep.name}_tiny", **least) for sweep in part.sweeps)
    return dataclasses.replace(part, sweeps=sweeps)


# ---- after the parts -----------------------------------------------------------------------------------------------


def prune_again(study: Study) -> None:
    """Prune the confirmed networks again: all with recalibration, and those of some arms by the other criteria.

    Networks that are not here are left out.
    """
    arms = study.found().arms
    for chosen, methods in ((list(arms), (RECALIBRATED,)), (CRITERIA_ARMS, CRITERIA[1:])):
        keys = {trial.key for arm in chosen for trial in arms.get(arm, ())}
        for sweep in study.sweeps:
            if keys & State.read(sweep.folder).trials.keys():
                run_reprune(sweep, methods, (), select=lambda trial, keys=keys: trial.key in keys, quiet=True)


def carried_sweeps(tuned: Found, sources: Mapping[str, Found]) -> list[tuple[str, Sweep]]:
    """Sweeps that train the tuned configurations of some arms with the lam of another network.

    They have one configuration and the confirmation's seeds.

    Args:
        tuned: The results of the part whose networks are trained.
        sources: Title -> the results that lam is taken from.

    Returns:
        The title of the source with each sweep. An arm that is not confirmed there or here is left out.
    """
    sweeps = []
    for title, source in sources.items():
        for arm in CARRIED_ARMS:
            if arm in tuned.arms and arm in source.arms:
                sweep = tuned.sweep.changed(
                    opt=tuned.arms[arm][0].config["opt"],
                    name=f"{tuned.sweep.name}_{arm[1]}_lam_of_{title}",
                    optimizer=(arm[0],),
                    regularizer=(arm[1],),
                    lam=source.arms[arm][0].config["lam"],
                    hold=("opt/lr", "opt/weight_decay"),
                    num_trials=1,
                )
                sweeps.append((title, sweep))
    return sweeps


def carry(tuned: Found, width8: Found, mode: str) -> str:
    """Train with the lam of width 8 and of digits; returns the section about it."""
    digits = found_of(digits_methods.study(tuned.sweep.runs), "restore")
    sources = {"width8": width8, "digits": digits}
    carried = [(title, found_of(following((sweep,), tuned), mode)) for title, sweep in carried_sweeps(tuned, sources)]
    caption = paragraph(
        "Lam and weight decay of each source, and how far the two rules *lam stays the same* and *lam / weight decay "
        "stays the same* are from the tuned configuration (1 is equal). The second rule was not trained."
    )
    return "\n\n".join([carried_section(tuned, carried), caption, lam_ratios(tuned, sources, CARRIED_ARMS)])


def added_sweeps(tuned: Found) -> list[Sweep]:
    """Sweeps that search the lam of WCR alone, with all else as it was selected without a regularizer."""
    sweeps = []
    for optimizer in ADDED_TO:
        if (optimizer, "none") in tuned.arms:
            selected = tuned.arms[optimizer, "none"][0].config["opt"]
            sweep = tuned.sweep.changed(
                opt=selected,
                name=f"{tuned.sweep.name}_wcr_added_to_{optimizer}",
                optimizer=(optimizer,),
                regularizer=("wcr",),
                hold=("opt/lr", "opt/weight_decay", "opt/rho"),
                bounds={"lam": ADDED_LAM},
                num_trials=8,
                num_finalists=3,
            )
            sweeps.append(sweep)
    return sweeps


def add(tuned: Found, mode: str) -> str:
    """Train the sweeps of `added_sweeps`; returns the section about them."""
    return added_section(tuned, found_of(following(added_sweeps(tuned), tuned), mode), ADDED_TO)


def following(sweeps: Sequence[Sweep], tuned: Found) -> Study:
    """The study of sweeps that follow from results."""
    return Study(tuple(sweeps), {}, MARGIN, tuned.study.results)


def found_of(study: Study, mode: str, then: Callable[[Study], None] = lambda study: None) -> Found:
    """The results of a study.

    Args:
        mode: "run" trains what is missing and writes the compact records, "export" writes them, and "restore" reads
            them alone.
        then: What else to do after the trainings.
    """
    study.restore()
    if mode == "run":
        study.run()
        then(study)
    if mode != "restore":
        study.export()
    return study.found()


# ---- the command ---------------------------------------------------------------------------------------------------


def write(name: str, text: str, page: Path) -> None:
    replace_section(page, f"<!-- part: {name} -->", f"<!-- end of {name} -->", text)


def write_part(name: str, found: Found, page: Path) -> None:
    figure = page.with_name(f"{page.stem}-{name}.png")
    write(name, section(found, figure.name), page)
    if found.arms:
        found.draw().savefig(figure, dpi=110)


def write_best(chosen: Mapping[str, Found], founds: Mapping[str, Found], file: Path = BEST) -> None:
    """Write the values to reuse of the chosen parts; none of a part whose search a complete one goes on with."""
    for name, found in chosen.items():
        later = [
            other for other, part in PARTS.items() if part.continued in PARTS[name].sweeps and founds[other].is_complete
        ]
        entries = f"# {later[0]} replaces these." if later else best_entries(found, "docs/study.md")
        markers = (f"# <!-- {edge}: {name} of the study on CIFAR-10 -->" for edge in ("part", "end"))
        replace_section(file, *markers, entries)


def write_answers(founds: Mapping[str, Found], page: Path) -> None:
    figure, shown = page.with_name(f"{page.stem}-answers.png"), draw_answers(founds)
    parts = [answers(founds)]
    if shown:
        shown.savefig(figure, dpi=110)
        caption = (
            "A filled symbol stands for a difference that is significant after Holm's correction, the grey band for "
            f"differences up to {MARGIN:g}. In the tables, *open* means neither significant nor shown to be equal."
        )
        picture = f"![the difference of each comparison with its interval, by question and network]({figure.name})"
        parts = [picture, paragraph(caption), *parts]
    write("answers", "\n\n".join(parts), page)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=(*PARTS, *FOLLOWING), help="run this part alone; repeatable")
    parser.add_argument("--export", action="store_true", help="write the compact records and the page; run nothing")
    parser.add_argument("--write", action="store_true", help="rewrite the page from the records; run nothing")
    parser.add_argument("--tiny", action="store_true", help="try the program: one short training of everything")
    parser.add_argument("--runs", type=Path, default=BASE.runs, help="folder of all records")
    parser.add_argument("--data-root", type=Path, help="folder with CIFAR-10; default: download it")
    parser.add_argument("--page", type=Path, help="page to write; default: docs/study.md, and none with --tiny")
    args = parser.parse_args(arguments)
    page = args.page or (None if args.tiny else PAGE)
    chosen = args.part or [*(name for name, part in PARTS.items() if part.default), *FOLLOWING]
    mode = "restore" if args.write else "export" if args.export else "run"
    modes = {name: mode if name in chosen else "restore" for name in (*PARTS, *FOLLOWING)}
    founds = {}
    for name, part in PARTS.items():
        part = tiny(part) if args.tiny else part
        study = study_of(part, args.runs, args.data_root, args.runs / "committed" if args.tiny else None)
        then = prune_again if name == "width8" else lambda study: None
        founds[name] = found_of(study, modes[name], then)
        if page and name in chosen:
            write_part(name, founds[name], page)
    added = add(founds["width8"], modes["added"])
    carried = carry(founds["width16"], founds["width8"], modes["carried"])
    if page == PAGE:
        write_best({name: founds[name] for name in PARTS if name in chosen and founds[name].is_complete}, founds)
    if page:
        write("added", added, page)
        write_answers({PARTS[name].title: found for name, found in founds.items()}, page)
        write("recalibrated", recalibrated_section(founds["width8"], RECALIBRATED), page)
        write("first_selection", first_selection_section(founds["width8"], RECALIBRATED), page)
        write("criteria", criteria_section(founds["width8"], CRITERIA_ARMS, CRITERIA), page)
        write("carried", carried, page)
    if page == PAGE and founds["width8"].is_complete:
        replace_section(README, "<!-- study on CIFAR-10 -->", "<!-- end -->", in_short(founds["width8"], IN_SHORT))


if __name__ == "__main__":
    main()
