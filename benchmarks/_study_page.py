"""What the page of the study on CIFAR-10 has beside the accuracies: sizes, costs, criteria and a lam carried over."""

import math
import statistics
from collections.abc import Mapping, Sequence

from benchmarks._markdown import Comparison, comparison_table, paragraph, table, with_interval
from benchmarks._study import Arm, Found
from service.records.state import TrialRecord
from service.views.tables import number
from trainables.config import hyperparameters
from trainables.pruning_method import PruningMethod

__all__ = [
    "added_section",
    "carried_section",
    "costs",
    "criteria_section",
    "first_selection_section",
    "in_short",
    "lam_ratios",
    "recalibrated_section",
    "recommended",
    "section",
    "size_comparisons",
    "smallest",
]

BASELINE: Arm = ("sgd", "none")
KEPT = 0.9  # the share of the highest dense accuracy that the smallest network of an arm must keep


def section(found: Found, figure: str) -> str:
    """The generated section of a part.

    Args:
        figure: File name of the figure, beside the page.
    """
    parts = [found.section(figure)]
    if found.at_target(BASELINE):
        parts += [recommended(found), *sizes(found)]
        parts += [
            paragraph(
                "Seconds of a trial in the search (training, pruning and evaluation), relative to SGD without a "
                "regularizer (medians). Other programs ran at times, so these are rough; [the cost of a "
                "step](performance.md#training-steps) is measured separately."
            ),
            costs(found),
        ]
    return "\n\n".join(parts)


def best_arm(found: Found) -> Arm | None:
    """The highest mean validation accuracy at the target over the confirmed networks; None if there are none."""
    means = {arm: found.mean(arm, found.target, split="curve") for arm in found.arms}
    return max((arm for arm in means if not math.isnan(means[arm])), key=means.__getitem__, default=None)


def recommended(found: Found) -> str:
    """The arm that is best by validation against the baseline, the only comparison of its question."""
    best = best_arm(found)
    if best is None or best == BASELINE:
        return "The best arm by the validation accuracy of the confirmed networks is SGD without a regularizer."
    shown = comparison_table(
        found.comparisons([(best, BASELINE)]), verdicts=("better", "worse"), margin=found.study.margin
    )
    return f"The best arm by the validation accuracy of the confirmed networks, against SGD alone:\n\n{shown}"


# ---- in short --------------------------------------------------------------------------------------------------------


def in_short(found: Found, others: Sequence[Arm]) -> str:
    """A few arms, those of `others` and the best one by validation, with their costs; for the README."""
    cost = relative_costs(found)
    rows = []
    for arm in dict.fromkeys((*others, best_arm(found))):
        if arm and found.at_target(arm):
            cells = [f"{found.mean(arm, level):.3f}" for level in found.levels]
            cells[found.levels.index(found.target)] = with_interval(list(found.at_target(arm).values()))
            rows.append([*arm, *cells, f"{cost[arm]:.2f}"])
    levels = ["dense" if level == 0 else f"{level:g}" for level in found.levels]
    return table(["optimizer", "regularizer", *levels, "time"], rows) if rows else "Nothing has run yet."


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
        paragraph(f"The same fractions at {found.target:g}, smallest first; an observation, which was added later:"),
        sizes_at_target(found),
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


def sizes_at_target(found: Found) -> str:
    rows = []
    for arm in found.arms:
        left = list(found.values(arm, found.target, "macs_left", "curve").values())
        accuracy = list(found.at_target(arm).values())
        if left and accuracy:
            rows.append((statistics.fmean(left), [*arm, with_interval(accuracy), with_interval(left)]))
    rows.sort(key=lambda row: row[0])
    return table(["optimizer", "regularizer", "test accuracy", "MACs left"], [cells for _, cells in rows])


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


def relative_costs(found: Found) -> dict[Arm, float]:
    """Median seconds of the search's trials of each arm, over those of the baseline; empty without the baseline's."""
    seconds: dict[Arm, list[float]] = {}
    for state in found.states:
        for trial in state.finished("search"):
            arm = trial.config["optimizer"], trial.config["regularizer"]
            seconds.setdefault(arm, []).append(trial.report["seconds"])
    if BASELINE not in seconds:
        return {}
    base = statistics.median(seconds[BASELINE])
    return {arm: statistics.median(found) / base for arm, found in seconds.items()}


def costs(found: Found) -> str:
    relative = relative_costs(found)
    if not relative:
        return ""
    optimizers, regularizers = (list(dict.fromkeys(arm[i] for arm in relative)) for i in (0, 1))

    def ratio(arm: Arm) -> str:
        return f"{relative[arm]:.2f}" if arm in relative else "-"

    rows = [[optimizer, *(ratio((optimizer, regularizer)) for regularizer in regularizers)] for optimizer in optimizers]
    return table(["optimizer", *regularizers], rows)


# ---- criteria, lam carried over, WCR added ---------------------------------------------------------------------------


def recalibrated_section(found: Found, method: PruningMethod) -> str:
    """Test accuracy of all arms with BatchNorm's statistics estimated again after pruning, and at the target without.

    Ordered by the validation accuracy at the target, recalibrated. An arm is left out until all its networks are done.
    """
    label = method.label
    arms = [
        arm for arm, trials in found.arms.items() if len(found.values(arm, found.target, method=label)) == len(trials)
    ]
    if not arms:
        return "Nothing has run yet."
    rows = []
    for arm in sorted(arms, key=lambda arm: -found.mean(arm, found.target, split="curve", method=label)):
        columns = [list(found.values(arm, level, method=label).values()) for level in found.levels[1:]]
        cells = [with_interval(column) for column in columns]
        rows.append([*arm, str(len(found.arms[arm])), with_interval(list(found.at_target(arm).values())), *cells])
    header = ["optimizer", "regularizer", "n", f"{found.target:g} as pruned"]
    return table([*header, *(f"{level:g} recalibrated" for level in found.levels[1:])], rows)


def first_selection_section(found: Found, method: PruningMethod, num_shown: int = 10) -> str:
    """Test accuracy of the networks of an earlier selection with BatchNorm's statistics estimated again.

    The arms whose accuracy is the highest on the same seeds stand beside them. Ordered by it.

    Args:
        num_shown: How many of these arms.
    """
    earlier = [
        (arm, trials, list(values))
        for arm, configurations in found.configurations.items()
        for trials in configurations[1:]
        if (values := found.values_of(trials, found.target, method=method.label))
    ]
    if not earlier:
        return "Nothing has run yet."
    seeds = earlier[0][2]

    def means(trials: Sequence[TrialRecord]) -> list[float]:
        """As pruned and recalibrated; empty unless all seeds are there."""
        both = [found.values_of(trials, found.target, method=label) for label in (None, method.label)]
        return [statistics.fmean(values[seed] for seed in seeds) for values in both if values.keys() >= set(seeds)]

    entries = [(arm, trials, "first") for arm, trials, these in earlier if these == seeds]
    by_accuracy = sorted(
        (arm for arm in found.arms if len(means(found.arms[arm])) == 2), key=lambda arm: -means(found.arms[arm])[1]
    )
    entries += [(arm, found.arms[arm], "second") for arm in by_accuracy[:num_shown]]
    rows = []
    for arm, trials, selection in sorted(entries, key=lambda entry: -means(entry[1])[1]):
        settings = [number(hyperparameters(trials[0].config)[name]) for name in ("lr", "weight_decay")]
        rows.append([*arm, selection, *settings, str(len(seeds)), *(f"{mean:.3f}" for mean in means(trials))])
    header = ["optimizer", "regularizer", "selection", "lr", "weight decay", "n"]
    return table([*header, f"{found.target:g} as pruned", f"{found.target:g} recalibrated"], rows)


def criteria_section(found: Found, arms: Sequence[Arm], methods: Sequence[PruningMethod]) -> str:
    """Test accuracy of the same networks, pruned by several methods."""
    rows = []
    for arm in arms:
        for method in methods:
            columns = [list(found.values(arm, level, method=method.label).values()) for level in found.levels[1:]]
            if all(columns):
                cells = [with_interval(column) for column in columns]
                rows.append([" + ".join(arm), method.label, str(len(columns[0])), *cells])
    if not rows:
        return "Nothing has run yet."
    return table(["arm", "criterion and scope", "n", *map("{:g}".format, found.levels[1:])], rows)


def carried_section(tuned: Found, carried: Sequence[tuple[str, Found]]) -> str:
    """Paired differences of the accuracy with a lam from elsewhere from that with the tuned one.

    Args:
        tuned: The part whose networks are trained.
        carried: Where lam comes from, and the results with it.
    """
    comparisons, rows = [], []
    for source, found in carried:
        for arm, trials in found.arms.items():
            lams = (trials[0].config["lam"], tuned.arms[arm][0].config["lam"])
            name = f"{' + '.join(arm)}: lam {lams[0]:.3g} of {source}, against {lams[1]:.3g}"
            comparisons.append((name, found.at_target(arm), tuned.at_target(arm)))
            for results, of in ((tuned, "tuned"), (found, source)):
                cells = [with_interval(list(results.values(arm, level).values())) for level in (0.0, tuned.target)]
                rows.append((" + ".join(arm), number(results.arms[arm][0].config["lam"]), of, *cells))
    if not comparisons:
        return "Nothing has run yet."
    accuracies = table(["arm", "lam", "source", "0", f"{tuned.target:g}"], sorted(dict.fromkeys(rows)))
    return "\n\n".join(
        [
            comparison_table(comparisons, margin=tuned.study.margin),
            paragraph(f"Test accuracy before pruning and at {tuned.target:g}, with 95% intervals:"),
            accuracies,
        ]
    )


def lam_ratios(tuned: Found, sources: Mapping[str, Found], arms: Sequence[Arm]) -> str:
    """How far two rules are from the tuned lam: an unchanged lam, and an unchanged ratio of lam to the weight decay.

    Args:
        tuned: The part whose networks are trained.
        sources: Where lam comes from -> the results there. Arms that are not confirmed in both are left out.
    """
    rows = []
    for source, found in sources.items():
        for arm in (arm for arm in arms if arm in found.arms and arm in tuned.arms):
            theirs, ours = (hyperparameters(each.arms[arm][0].config) for each in (found, tuned))
            lam = theirs["lam"] / ours["lam"]
            ratio = lam * ours["weight_decay"] / theirs["weight_decay"]
            settings = [number(theirs[name]) for name in ("lam", "weight_decay")]
            rows.append([" + ".join(arm), source, *settings, f"{lam:.2g}", f"{ratio:.2g}"])
    header = ["arm", "source", "lam", "weight decay", "lam / tuned lam", "the same for lam / weight decay"]
    return table(header, rows) if rows else "Nothing has run yet."


def added_section(tuned: Found, added: Found, optimizers: Sequence[str]) -> str:
    """Paired differences of the accuracy with WCR from that without, at equal lr, weight decay and rho.

    Args:
        tuned: The results without.
        added: The results with WCR, whose lam alone was searched.
        optimizers: Those that were planned. Holm's correction covers them.
    """
    if not added.arms:
        return "Nothing has run yet."
    comparisons = []
    for optimizer in optimizers:
        trials = added.arms.get((optimizer, "wcr"), [])
        lam = f" (lam {trials[0].config['lam']:.3g})" if trials else ""
        name = f"{optimizer} + wcr{lam}, against {optimizer} + none"
        comparisons.append((name, added.at_target((optimizer, "wcr")), tuned.at_target((optimizer, "none"))))
    return comparison_table(comparisons, verdicts=("better", "worse"), margin=tuned.study.margin)
