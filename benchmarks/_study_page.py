"""What the page of the study on CIFAR-10 has beside the accuracies: sizes, costs, criteria and a lam carried over."""

import math
import statistics
from collections.abc import Sequence

from benchmarks._markdown import Comparison, comparison_table, paragraph, table, with_interval
from benchmarks._study import Arm, Found

__all__ = ["carried_section", "costs", "criteria_section", "recommended", "section", "size_comparisons", "smallest"]

BASELINE: Arm = ("sgd", "none")
KEPT = 0.9  # the share of the highest dense accuracy that the smallest network of an arm must keep


def section(found: Found, figure: str) -> str:
    """The generated section of a part.

    Args:
        figure: File name of the figure, beside the page.
    """
    parts = [found.section(figure)]
    if BASELINE in found.arms:
        parts += [recommended(found), *sizes(found)]
        parts += [
            paragraph(
                "Seconds of a trial in the search (training, pruning and evaluation), relative to SGD without a "
                "regularizer (medians):"
            ),
            costs(found),
        ]
    return "\n\n".join(parts)


def recommended(found: Found) -> str:
    """The arm that is best by validation against the baseline, the only comparison of its question."""
    best = max(found.arms, key=lambda arm: found.mean(arm, found.target, split="curve"))
    if best == BASELINE:
        return "The best arm by the validation accuracy of the confirmed networks is SGD without a regularizer."
    shown = comparison_table(
        found.comparisons([(best, BASELINE)]), verdicts=("better", "worse"), margin=found.study.margin
    )
    return f"The best arm by the validation accuracy of the confirmed networks, against SGD alone:\n\n{shown}"


# ---- the smallest network ------------------------------------------------------------------------------------------


def sizes(found: Found) -> list[str]:
    needed = needed_accuracy(found)
    return [
        paragraph(
            f"The smallest network of each arm: at the highest sparsity at which its mean validation accuracy is at "
            f"least {needed:.3f}, nine tenths of the highest mean dense accuracy of all arms. MACs left: the fraction "
            "of multiply-accumulate operations after exact shrinking. Means over seeds with their intervals."
        ),
        smallest(found),
        "Paired differences of these fractions:",
        comparison_table(size_comparisons(found), verdicts=("larger", "smaller")),
    ]


def needed_accuracy(found: Found) -> float:
    return KEPT * max(found.mean(arm, 0.0, split="curve") for arm in found.arms)


def smallest_level(found: Found, arm: Arm) -> float | None:
    """The highest sparsity at which the arm's mean validation accuracy is enough, None if no network has it."""
    needed = needed_accuracy(found)
    return max((level for level in found.levels if found.mean(arm, level, split="curve") >= needed), default=None)


def macs(found: Found, arm: Arm) -> dict[int, float]:
    """Seed -> fraction of the dense network's MACs that is left of the arm's smallest network."""
    level = smallest_level(found, arm)
    return {} if level is None else found.values(arm, level, "macs_left", "curve")


def smallest(found: Found) -> str:
    rows = []
    for arm in found.arms:
        level, left = smallest_level(found, arm), list(macs(found, arm).values())
        if level is None or not left:
            rows.append((math.inf, [*arm, "-", "-", "-"]))
            continue
        accuracy = with_interval(list(found.values(arm, level).values()))
        rows.append((statistics.fmean(left), [*arm, f"{level:g}", accuracy, with_interval(left)]))
    rows.sort(key=lambda row: row[0])
    return table(["optimizer", "regularizer", "sparsity", "test accuracy", "MACs left"], [cells for _, cells in rows])


def size_comparisons(found: Found) -> list[Comparison]:
    """With SGD and SAM, each regularizer against none: the MACs left of the smallest networks."""
    planned = [((o, r), (o, "none")) for o in ("sgd", "sam") for r in found.sweep.regularizer if r != "none"]
    return [
        (f"{' + '.join(ours)}, against {' + '.join(theirs)}", macs(found, ours), macs(found, theirs))
        for ours, theirs in planned
    ]


# ---- cost ----------------------------------------------------------------------------------------------------------


def costs(found: Found) -> str:
    """Median seconds of the search's trials of each arm, over those of the baseline."""
    seconds: dict[Arm, list[float]] = {}
    for state in found.states:
        for trial in state.finished("search"):
            arm = trial.config["optimizer"], trial.config["regularizer"]
            seconds.setdefault(arm, []).append(trial.report["seconds"])
    if BASELINE not in seconds:
        return ""
    base = statistics.median(seconds[BASELINE])
    optimizers, regularizers = (list(dict.fromkeys(arm[i] for arm in seconds)) for i in (0, 1))

    def ratio(arm: Arm) -> str:
        return f"{statistics.median(seconds[arm]) / base:.2f}" if arm in seconds else "-"

    rows = [[optimizer, *(ratio((optimizer, regularizer)) for regularizer in regularizers)] for optimizer in optimizers]
    return table(["optimizer", *regularizers], rows)


# ---- criteria, and lam carried over --------------------------------------------------------------------------------


def criteria_section(found: Found, arms: Sequence[Arm], labels: Sequence[str]) -> str:
    """Test accuracy of the same networks, pruned by several methods."""
    rows = []
    for arm in arms:
        for label in labels:
            columns = [list(found.values(arm, level, method=label).values()) for level in found.levels[1:]]
            if all(columns):
                cells = [with_interval(column) for column in columns]
                rows.append([" + ".join(arm), label, str(len(columns[0])), *cells])
    if not rows:
        return "Nothing has run yet."
    return table(["arm", "criterion and scope", "n", *map("{:g}".format, found.levels[1:])], rows)


def carried_section(tuned: Found, carried: Sequence[tuple[str, Found]]) -> str:
    """Paired differences of the accuracy with a lam from elsewhere from that with the tuned one.

    Args:
        tuned: The part whose networks are trained.
        carried: Where lam comes from, and the results with it.
    """
    comparisons = []
    for source, found in carried:
        for arm, trials in found.arms.items():
            lams = (trials[0].config["lam"], tuned.arms[arm][0].config["lam"])
            name = f"{' + '.join(arm)}: lam {lams[0]:.3g} of {source}, against {lams[1]:.3g}"
            comparisons.append((name, found.at_target(arm), tuned.at_target(arm)))
    if not comparisons:
        return "Nothing has run yet."
    return comparison_table(comparisons, margin=tuned.study.margin)
