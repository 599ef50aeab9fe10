"""The ablations' part of docs/methods-on-digits.md: every number is computed from the lines of the results."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import _ablation_jobs as trainings
from benchmarks import _logistic as logistic
from benchmarks._markdown import Comparison, comparison_table, paragraph, table, with_interval
from service.statistics import interval_of_mean
from service.views.tables import number
from sweeps.digits_methods import SWEEP
from trainables.config import TrialConfig, hyperparameters

__all__ = ["curvature_comparisons", "fit_exponents", "placement_comparisons", "scope_comparisons"]
__all__ += ["logistic_comparisons", "section"]

Entries = Sequence[Mapping[str, Any]]
Values = dict[int, float]  # by seed
Comparisons = list[Comparison]

TARGET = f"{SWEEP.trial.target_sparsity:g}"
SCOPE_TITLES = {"global": "global", "min_kept": f"global, {trainings.MIN_KEPT} kept", "uniform": "uniform"}
# V of ResNet-18 on CIFAR-10 by lam, from table 9 of the WCR paper (arXiv 2511.14282).
PAPER_V = {
    "sgd": dict(zip(trainings.LAMS, (0.0021, 0.0030, 0.0035, 0.0060, 0.0081, 0.0165, 0.0226), strict=True)),
    "sam": dict(zip(trainings.LAMS, (0.00010, 0.00018, 0.00024, 0.00050, 0.00069, 0.00151, 0.00212), strict=True)),
}
LOWEST_LAMS = (trainings.LAMS[0], 1e-5)  # all of them, and those from which on the paper's slopes are .41 and .47


def section(entries: Entries) -> str:
    """The whole part, of what has been measured so far."""
    jobs = list({entry["job"]: entry for entry in entries if entry["event"] == "job"}.values())
    arms = [entry for entry in entries if entry["event"] == "arm"]
    parts = [
        ("### Configurations", arms_text(arms, jobs)),
        ("### Layers that vanish, and the scope of pruning", scope_text(jobs)),
        ("### The penalty inside and outside the perturbation", placement_text(jobs)),
        ("### The variance that lam and the weight decay settle at", variance_text(jobs)),
        ("### Curvature with and without WCR", curvature_text(jobs)),
        ("### Logistic regression: relaxed masks and l1", logistic_text(jobs)),
    ]
    return "\n\n".join(f"{title}\n\n{text}" for title, text in parts)


# ---- what the tables share -----------------------------------------------------------------------------------------


def select(jobs: Entries, ablation: str, **labels: Any) -> list[Mapping[str, Any]]:
    wanted = {"ablation": ablation, **labels}
    return [job for job in jobs if all(job.get(name) == value for name, value in wanted.items())]


def by_seed(jobs: Entries, value: Callable[[Mapping[str, Any]], float]) -> Values:
    """Seed -> value, without trainings that diverged."""
    return {job["seed"]: value(job) for job in jobs if "diverged" not in job}


def accuracy(level: str, scope: str = "global") -> Callable[[Mapping[str, Any]], float]:
    return lambda job: job["acc"]["dense"] if level == "dense" else job["acc"][scope][level]


def cell(values: Values) -> str:
    return with_interval(list(values.values())) if values else "-"


def tests_are(comparisons: Comparisons, what: str) -> str:
    return paragraph(
        f"Paired differences of {what}, with exact permutation tests and Holm's correction over these "
        f"{len(comparisons)} comparisons:"
    )


# ---- configurations ------------------------------------------------------------------------------------------------


def arms_text(arms: Entries, jobs: Entries) -> str:
    rows = []
    for arm in {(arm["optimizer"], arm["regularizer"]): arm for arm in arms}.values():
        config = TrialConfig.model_validate(arm["config"])
        settings = [number(value) for value in hyperparameters(dict(config)).values()]
        rows.append([config.optimizer, config.regularizer, *settings, arm["source"]])
    minutes = sum(job["cpu_s"] for job in jobs) / 60
    seeds = sorted({job["seed"] for job in jobs})
    diverged = sum("diverged" in job for job in jobs)
    span = f"seeds {seeds[0]} to {seeds[-1]}, which no search or confirmation has seen" if seeds else "no seeds yet"
    return "\n\n".join(
        [
            paragraph(
                f"{len(jobs)} jobs on {span}; {minutes:.0f} CPU minutes; trainings that diverged: {diverged}. Nothing "
                "was selected by these results. Values are test accuracies unless a table says otherwise, as mean "
                "and Student's 95% interval over n seeds. Each ablation has its own correction for multiple "
                "comparisons."
            ),
            table(["optimizer", "regularizer", "lam", "rho", "lr", "weight decay", "configuration"], rows),
        ]
    )


# ---- a. vanishing layers -------------------------------------------------------------------------------------------


def arm_of(jobs: Entries, optimizer: str, regularizer: str) -> list[Mapping[str, Any]]:
    return select(jobs, "arm", optimizer=optimizer, regularizer=regularizer)


def gain(jobs: Entries, optimizer: str, regularizer: str, scope: str) -> Values:
    """What the regularizer adds to the test accuracy at the target, by seed."""
    ours, theirs = (by_seed(arm_of(jobs, optimizer, r), accuracy(TARGET, scope)) for r in (regularizer, "none"))
    return {seed: ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()}


def scope_comparisons(jobs: Entries) -> Comparisons:
    """At the target: the gain under each scope, whether it is larger under global pruning, and what `min_kept` gives to
    networks without a regularizer."""
    found: Comparisons = []
    for optimizer, regularizer in trainings.ARMS:
        arm = f"{optimizer} + {regularizer}"
        if regularizer == "none":
            ours, theirs = (
                by_seed(arm_of(jobs, optimizer, regularizer), accuracy(TARGET, scope))
                for scope in ("min_kept", "global")
            )
            found.append((f"{arm}: {SCOPE_TITLES['min_kept']} - global", ours, theirs))
            continue
        gains = {scope: gain(jobs, optimizer, regularizer, scope) for scope in trainings.SCOPES}
        found += [
            (f"{arm} - none: {SCOPE_TITLES[scope]}", values, dict.fromkeys(values, 0.0))
            for scope, values in gains.items()
        ]
        found += [
            (f"{arm} - none: (global) - ({SCOPE_TITLES[scope]})", gains["global"], gains[scope])
            for scope in ("min_kept", "uniform")
        ]
    return found


def scope_text(jobs: Entries) -> str:
    parts = [
        paragraph(
            "If regularizers help because whole layers vanish under global pruning, their gain is smaller where no "
            f"layer can vanish: with at least {trainings.MIN_KEPT} weights kept in each layer, or with the same "
            "sparsity in each layer (uniform). Every network is trained once and pruned in all three ways. `layers "
            "removed` is the mean number of convolutions (of 9) that global pruning empties, `fewest left` the "
            "number of weights in the convolution that keeps the fewest, over seeds."
        )
    ]
    for level in trainings.LEVELS:
        rows = []
        for optimizer, regularizer in trainings.ARMS:
            arm = arm_of(jobs, optimizer, regularizer)
            removed = by_seed(arm, lambda job, level=level: job["layers_removed"][f"{level:g}"])
            scopes = [cell(by_seed(arm, accuracy(f"{level:g}", scope))) for scope in trainings.SCOPES]
            mean_removed = f"{statistics.fmean(removed.values()):.2f}" if removed else "-"
            fewest = by_seed(arm, lambda job, level=level: job["fewest_left"][f"{level:g}"])
            span = f"{min(fewest.values())} to {max(fewest.values())}" if fewest else "-"
            dense = cell(by_seed(arm, accuracy("dense")))
            rows.append([optimizer, regularizer, str(len(removed)), dense, mean_removed, span, *scopes])
        header = ["optimizer", "regularizer", "n", "dense", "layers removed", "fewest left", *SCOPE_TITLES.values()]
        parts += [f"At sparsity {level:g}:", table(header, rows)]
    comparisons = scope_comparisons(jobs)
    parts += [
        paragraph(
            "`sam + wcr - none` is the gain of WCR with SAM; `(global) - (uniform)` is the gain under global pruning "
            "minus the gain under uniform pruning."
        ),
        tests_are(comparisons, f"test accuracy at {TARGET}"),
        comparison_table(comparisons),
    ]
    return "\n\n".join(parts)


# ---- b. the penalty's place ----------------------------------------------------------------------------------------


def placements() -> Iterable[tuple[str, str, str, dict[str, Any]]]:
    """(optimizer, regularizer, title, labels) of every way to place the penalty."""
    for optimizer, counts in trainings.PLACEMENTS.items():
        for regularizer in ("wcr", "hoyer_square"):
            labels = {"optimizer": optimizer, "regularizer": regularizer}
            yield optimizer, regularizer, "inside", {"ablation": "arm", **labels}
            for times in counts:
                title = f"outside, {times} lam"
                yield optimizer, regularizer, title, {"ablation": "outside", **labels, "times": times}


def placement_comparisons(jobs: Entries) -> Comparisons:
    found: Comparisons = []
    for optimizer, regularizer, title, labels in placements():
        if title != "inside":
            ours = by_seed(select(jobs, **labels), accuracy(TARGET))
            theirs = by_seed(arm_of(jobs, optimizer, regularizer), accuracy(TARGET))
            found.append((f"{optimizer} + {regularizer}: {title} - inside", ours, theirs))
    return found


def placement_text(jobs: Entries) -> str:
    levels = ["dense", *(f"{level:g}" for level in trainings.LEVELS)]
    rows = []
    for optimizer, regularizer, title, labels in placements():
        chosen = select(jobs, **labels)
        cells = [by_seed(chosen, accuracy(level)) for level in levels]
        rows.append([optimizer, regularizer, title, str(len(cells[0])), *map(cell, cells)])
    comparisons = placement_comparisons(jobs)
    return "\n\n".join(
        [
            paragraph(
                "Inside, as everywhere else on this page, the closure's loss includes lam R, so the penalty shapes "
                "the perturbation and is differentiated at the perturbed weights. Outside, the perturbation comes "
                "from the loss alone and the penalty's gradient is added once a step, at the unperturbed weights. "
                "CrAM+ sums two gradients and so has the penalty twice inside: `2 lam` outside is as strong. lam was "
                "selected with the penalty inside. Global pruning:"
            ),
            table(["optimizer", "regularizer", "penalty", "n", *levels], rows),
            tests_are(comparisons, f"test accuracy at {TARGET}"),
            comparison_table(comparisons),
        ]
    )


# ---- c. V against lam and weight decay -----------------------------------------------------------------------------


def fit_exponents(points: Sequence[tuple[float, float, float]]) -> dict[str, float] | None:
    """Least squares over points (lam, weight decay, V), in logarithms.

    Returns:
        slope: Of log V on log(lam / weight decay), and r2, the share of the variance that it explains.
        lam, weight_decay: Exponents when both are free, V ~ lam^a weight_decay^b; weight_decay is left out for points
            of a single weight decay.
        None for fewer than three values of lam.
    """
    if len({lam for lam, _, _ in points}) < 3:
        return None
    lam, decay, v = np.log(np.array(points, dtype=float)).T
    slope, offset = np.polyfit(lam - decay, v, 1)
    residual = v - slope * (lam - decay) - offset
    found = {"slope": float(slope), "r2": float(1 - residual @ residual / ((v - v.mean()) @ (v - v.mean())))}
    free = [lam, np.ones_like(lam)] if np.ptp(decay) == 0 else [lam, np.ones_like(lam), decay]
    exponents = np.linalg.lstsq(np.stack(free, 1), v, rcond=None)[0]
    found["lam"] = float(exponents[0])
    if len(free) == 3:
        found["weight_decay"] = float(exponents[2])
    return found


def variance_rows(jobs: Entries, optimizer: str, statistic: str, title: str) -> list[list[str]]:
    rows = []
    for lowest in LOWEST_LAMS:
        fits: dict[int, dict[str, float]] = {}
        trained = [job for job in select(jobs, "variance", optimizer=optimizer) if "diverged" not in job]
        for seed in sorted({job["seed"] for job in trained}):
            points = [
                (job["lam"], job["weight_decay"], max(job[statistic], 1e-30))
                for job in trained
                if job["seed"] == seed and job["lam"] >= lowest
            ]
            if (fit := fit_exponents(points)) is not None:
                fits[seed] = fit
        names = ("slope", "lam", "weight_decay", "r2")
        cells = [signed_interval([fit[name] for fit in fits.values() if name in fit]) for name in names]
        rows.append([optimizer, title, f"{lowest:g}", str(len(fits)), *cells])
    return rows


def signed_interval(values: Sequence[float]) -> str:
    """Mean and Student's interval of numbers that may lie anywhere."""
    if not values:
        return "-"
    interval = interval_of_mean(values)
    return f"{statistics.fmean(values):.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def paper_rows() -> list[list[str]]:
    rows = []
    for (optimizer, by_lam), lowest in itertools.product(PAPER_V.items(), LOWEST_LAMS):
        fit = fit_exponents([(lam, 1.0, v) for lam, v in by_lam.items() if lam >= lowest])
        assert fit is not None
        rows.append(
            [optimizer, "paper, table 9", f"{lowest:g}", "-", "-", f"{fit['lam']:.3f}", "-", f"{fit['r2']:.3f}"]
        )
    return rows


def variance_text(jobs: Entries) -> str:
    rows, fits = [], []
    for optimizer in PAPER_V:
        for decay in trainings.WEIGHT_DECAYS:
            cells = []
            for lam in trainings.LAMS:
                chosen = select(jobs, "variance", optimizer=optimizer, weight_decay=decay, lam=lam)
                v = by_seed(chosen, lambda job: job["v_mean"])
                dense = by_seed(chosen, accuracy("dense"))
                cells.append(
                    f"{statistics.fmean(v.values()):.3g} ({statistics.fmean(dense.values()):.3f})" if v else "-"
                )
            rows.append([optimizer, f"{decay:g}", *cells])
        fits += variance_rows(jobs, optimizer, "v_mean", "mean over tensors")
        fits += variance_rows(jobs, optimizer, "v_geometric", "geometric mean over tensors")
    header = ["optimizer", "V", "lam from", "n", "slope on lam / weight decay", "exponent of lam"]
    header += ["exponent of weight decay", "R2"]
    sgd, sam = (trainings.initial_config(optimizer, "wcr").opt for optimizer in ("sgd", "sam"))
    return "\n\n".join(
        [
            paragraph(
                "V is the variance of a tensor's magnitudes after training. BatchNorm makes the loss independent of "
                "a layer's scale, and the penalty has degree -2 in the weights, so it balances the weight decay "
                f"where V is proportional to (lam / weight decay)^0.5. WCR with SGD and SAM, lr {sgd['lr']:g}, rho "
                f"{sam['rho']:g}; mean V over tensors and {trainings.NUM_VARIANCE_SEEDS} seeds, dense test accuracy "
                "in brackets, by weight decay and lam:"
            ),
            table(["optimizer", "weight decay", *(f"{lam:g}" for lam in trainings.LAMS)], rows),
            paragraph(
                "Least squares in logarithms for each seed; mean and Student's 95% interval over n seeds. Slope and "
                "R2 are those of log V on log(lam / weight decay). The exponents come from a fit in which both are "
                "free; the square root implies 0.5 and -0.5. The rows of the paper are fits to the rounded values of "
                "its table 9, which has one weight decay, not stated."
            ),
            table(header, [*fits, *paper_rows()]),
        ]
    )


# ---- d. curvature --------------------------------------------------------------------------------------------------


def log_eigenvalue(job: Mapping[str, Any]) -> float:
    return math.log10(max(abs(job["hessian"]), 1e-30))


def log_scaled_eigenvalue(job: Mapping[str, Any]) -> float:
    """Times the squared norm of the regularized weights."""
    return log_eigenvalue(job) + 2 * math.log10(max(job["norm"], 1e-15))


def curvature_comparisons(jobs: Entries) -> Comparisons:
    found: Comparisons = []
    for title, value in (("eigenvalue", log_eigenvalue), ("eigenvalue x norm^2", log_scaled_eigenvalue)):
        for optimizer in dict.fromkeys(optimizer for optimizer, _ in trainings.ARMS):
            ours, theirs = (by_seed(arm_of(jobs, optimizer, r), value) for r in ("wcr", "none"))
            found.append((f"{optimizer}, log10 {title}: wcr - none", ours, theirs))
    return found


def geometric(logs: Values) -> str:
    """Geometric mean and interval of values whose log10 is given."""
    if not logs:
        return "-"
    values = list(logs.values())
    interval = interval_of_mean(values)
    mean = f"{10 ** statistics.fmean(values):.3g}"
    return mean + (f" [{10 ** interval[0]:.3g}, {10 ** interval[1]:.3g}]" if interval else "")


def curvature_text(jobs: Entries) -> str:
    rows = []
    for optimizer, regularizer in trainings.ARMS:
        arm = arm_of(jobs, optimizer, regularizer)
        norms = by_seed(arm, lambda job: job["norm"])
        norm = f"{statistics.fmean(norms.values()):.3g}" if norms else "-"
        values = [geometric(by_seed(arm, value)) for value in (log_eigenvalue, log_scaled_eigenvalue)]
        rows.append([optimizer, regularizer, str(len(norms)), norm, *values])
    comparisons = curvature_comparisons(jobs)
    return "\n\n".join(
        [
            paragraph(
                "The Hessian's eigenvalue of largest magnitude, of the dense networks' training loss (without the "
                f"penalty, in evaluation mode) over the first {trainings.CURVATURE_IMAGES} training images, by "
                f"{trainings.CURVATURE_ITERATIONS} power iterations; geometric mean and 95% interval. BatchNorm makes "
                "the loss nearly independent of the weights' scale, so a larger norm alone lowers the eigenvalue. "
                "The last column is multiplied by the squared norm of the regularized weights and does not depend on "
                "the scale."
            ),
            table(["optimizer", "regularizer", "n", "norm", "eigenvalue", "eigenvalue x norm^2"], rows),
            tests_are(comparisons, "the logarithms"),
            comparison_table(comparisons),
        ]
    )


# ---- e. logistic regression ----------------------------------------------------------------------------------------

LAST = str(logistic.CHECKPOINTS[-1])


def at(checkpoint: str, name: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda job: job["at"][checkpoint][name]


def logistic_values(jobs: Entries, method: str, lam: float, name: str, checkpoint: str = "") -> Values:
    """checkpoint: the last one by default."""
    last = checkpoint or ("optimum" if method == logistic.OPTIMUM else LAST)
    return by_seed(select(jobs, "logistic", method=method, lam=lam), at(last, name))


def logistic_comparisons(jobs: Entries) -> Comparisons:
    found: Comparisons = []
    others = [method for method in (*logistic.METHODS, logistic.OPTIMUM) if method != "mask, log"]
    for lam, other, (name, title) in itertools.product(
        logistic.LAMS, others, (("zeros", "zeros"), ("acc", "accuracy"))
    ):
        ours, theirs = (logistic_values(jobs, method, lam, name) for method in ("mask, log", other))
        found.append((f"lam {lam:g}, {title}: (mask, log) - ({other})", ours, theirs))
    return found


def logistic_text(jobs: Entries) -> str:
    by_iteration, at_end = [], []
    for lam, method in itertools.product(logistic.LAMS, (*logistic.METHODS, logistic.OPTIMUM)):
        zeros, acc, reached = (logistic_values(jobs, method, lam, name) for name in ("zeros", "acc", "objective"))
        best = logistic_values(jobs, logistic.OPTIMUM, lam, "objective")
        excess = [reached[seed] - best[seed] for seed in reached.keys() & best.keys()]
        flips = "-"
        if method != logistic.OPTIMUM:
            pairs = [
                [logistic_values(jobs, method, lam, name, str(checkpoint)) for name in ("zeros", "acc")]
                for checkpoint in logistic.CHECKPOINTS
            ]
            cells = [", ".join(f"{statistics.fmean(v.values()):.3f}" if v else "-" for v in pair) for pair in pairs]
            by_iteration.append([f"{lam:g}", method, *cells])
            flips = cell(logistic_values(jobs, method, lam, "flips"))
        above = f"{statistics.fmean(excess):.2g}" if excess and "mask" not in method else "-"
        at_end.append([f"{lam:g}", method, str(len(zeros)), cell(zeros), cell(acc), flips, above])
    comparisons = logistic_comparisons(jobs)
    return "\n\n".join(
        [
            paragraph(
                f"Digits {logistic.CLASSES[0]} and {logistic.CLASSES[1]}, 64 weights, the mean logistic loss plus lam "
                f"R, full-batch gradient steps of {logistic.LR:g} without momentum. Each seed draws another split (a "
                "quarter of the images for the test) and another initialization. The mask methods multiply each "
                "weight by a mask in [0, 1] and penalize the mask, so their lam does not compare with that of l1. "
                "Fraction of exactly zero weights, then test accuracy, by iteration; means over seeds:"
            ),
            table(["lam", "method", *map(str, logistic.CHECKPOINTS)], by_iteration),
            paragraph(
                f"After {LAST} iterations, beside scikit-learn's optimum of the same l1 problem. `sign changes` is "
                f"the fraction of weights that change sign in a step, over the last {logistic.WINDOW} steps; `above "
                "the optimum` is the l1 objective less scikit-learn's, mean over seeds:"
            ),
            table(["lam", "method", "n", "zeros", "accuracy", "sign changes", "above the optimum"], at_end),
            tests_are(comparisons, f"the values after {LAST} iterations"),
            comparison_table(comparisons),
        ]
    )
