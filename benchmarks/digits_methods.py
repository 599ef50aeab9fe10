"""`python -m benchmarks.digits_methods`: every optimizer with every regularizer on digits, and the page about it.

Runs sweeps/digits_methods.py and rewrites the study's tables in docs/methods-on-digits.md and its values in
search_spaces/best.toml. Without local records it continues from those committed in benchmarks/results/. --export writes
the compact records and the page without running anything; --write writes the page alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks._best_values import BEST, best_entries
from benchmarks._markdown import replace_section
from benchmarks._study import Study
from sweeps import digits_methods

SWEEP = digits_methods.SWEEP
PAGE = Path(__file__).parents[1] / "docs" / "methods-on-digits.md"
START = "<!-- study: written by python -m benchmarks.digits_methods -->"
END = "<!-- study end -->"

# Planned before the first trial; see "What was planned" on the page.
FIRST_OPTIMIZERS = ("sgd", "adamw", "sam", "s2sam", "cram", "sfw")
PLANNED = {
    "The planned comparisons": [
        *(((optimizer, "wcr"), (optimizer, "none")) for optimizer in FIRST_OPTIMIZERS),
        *(((optimizer, "wcr"), (optimizer, "l1")) for optimizer in FIRST_OPTIMIZERS),
        *(((optimizer, "wcr"), (optimizer, "hoyer_square")) for optimizer in FIRST_OPTIMIZERS),
        *(((optimizer, "none"), ("sgd", "none")) for optimizer in ("sam", "s2sam", "cram")),
    ],
    # Planned after the results of the others were known, before the first trial of these arms.
    "The comparisons that were planned later, with a correction of their own": [
        *(((optimizer, "none"), ("sam", "none")) for optimizer in ("friendly_sam", "safe")),
        *(((optimizer, "none"), ("sgd", "none")) for optimizer in ("friendly_sam", "safe")),
        *(((optimizer, "wcr"), (optimizer, "none")) for optimizer in ("friendly_sam", "safe")),
        (("sgd", "weight_factorization"), ("sgd", "none")),
        (("sgd", "weight_factorization"), ("sgd", "l1")),
        (("sgd", "weight_factorization"), ("sgd", "hoyer_square")),
    ],
}


def study(runs: Path) -> Study:
    """The study with its records in the folder `runs`."""
    return Study((SWEEP.model_copy(update={"runs": runs}),), PLANNED)


def write(study: Study, page: Path) -> None:
    found = study.found()
    replace_section(page, START, END, found.section(page.with_suffix(".png").name))
    if found.arms:
        found.draw().savefig(page.with_suffix(".png"), dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", action="store_true", help="write the compact records and the page; run nothing")
    parser.add_argument("--write", action="store_true", help="rewrite the page from the records; run nothing")
    parser.add_argument("--runs", type=Path, default=SWEEP.runs, help="folder of all records")
    args = parser.parse_args(arguments)
    whole = study(args.runs)
    whole.restore()
    if not (args.export or args.write):
        whole.run()
    if not args.write:
        whole.export()
    write(whole, PAGE)
    if arms := best_entries(whole.found(), "docs/methods-on-digits.md"):
        replace_section(BEST, f"# {START}", f"# {END}", arms)


if __name__ == "__main__":
    main()
