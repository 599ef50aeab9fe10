"""The trainings behind the ablations: one job trains one network on digits and measures it in several ways."""

import functools
import itertools
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import sparsity
from benchmarks._jobs import ConfigJob
from service.search.space import choose, make_arms, make_config
from sparsity.diagnostics import hessian_eigenvalue, layer_statistics
from sweeps.digits_methods import SWEEP
from trainables.config import TrialConfig
from trainables.loop import Diverged, Training, load_task
from trainables.pruning import evaluate_pruned
from trainables.task import Task

__all__ = [
    "ARMS",
    "CURVATURE_IMAGES",
    "LAMS",
    "LEVELS",
    "MIN_KEPT",
    "NUM_VARIANCE_SEEDS",
    "SCOPES",
    "WEIGHT_DECAYS",
    "TrainingJob",
    "add_penalty_outside",
    "initial_config",
    "training_jobs",
]

ARMS = tuple(itertools.product(("sgd", "sam", "s2sam", "cram"), ("none", "hoyer_square", "wcr")))
LEVELS = (0.9, 0.96, 0.98)
# One weight for each of the 16 channels of the stem, the smallest tensor. No layer vanishes, and the other masks hardly
# change: 9 x 16 weights are 0.2% of all 76,432 and at most a tenth of the 1,529 that are left at 0.98.
MIN_KEPT = 16
SCOPES: dict[str, dict[str, Any]] = {
    "global": {"scope": "global", "min_kept": 0},
    "min_kept": {"scope": "global", "min_kept": MIN_KEPT},
    "uniform": {"scope": "uniform", "min_kept": 0},
}
# Penalty outside the perturbation: optimizer -> multiples of lam with which its gradient is added at the unperturbed
# weights. CrAM+ adds two gradients that both contain the penalty's, so 1 is half as strong as inside and 2 as strong.
PLACEMENTS = {"sam": (1,), "cram": (1, 2)}
LAMS = (1e-6, 5e-6, 1e-5, 5e-5, 1e-4, 5e-4, 1e-3)  # table 9 of the WCR paper
WEIGHT_DECAYS = (1e-2, 4e-2)  # 1e-2 still shrinks the weights by e^3 within 640 steps, so V can settle
NUM_VARIANCE_SEEDS = 3
CURVATURE_IMAGES = 512
CURVATURE_ITERATIONS = 20


@dataclass(frozen=True)
class TrainingJob(ConfigJob):
    """One training, measured in several ways.

    Args:
        num_outside: How often the penalty's gradient is added outside the perturbation; 0 leaves it inside.
        curvature: Whether the Hessian's eigenvalue is measured.
    """

    num_outside: int = 0
    curvature: bool = False

    def run(self) -> dict[str, Any]:
        """The numbers of the trained network; `diverged` has the reason where there is none."""
        begin = time.process_time()
        task = load_task(self.config)
        training = Training(task, self.config)
        if self.num_outside:
            add_penalty_outside(training, self.num_outside)
        try:
            while not training.finished:
                training.train_to_evaluation(evaluate=False)
            result = measure(task, training.trained_model().eval(), self.config)
            if self.curvature:
                result["hessian"] = rounded(curvature(task, training.trained_model().eval(), self.config.seed))
        except Diverged as error:
            result = {"diverged": str(error)}
        return {**result, "cpu_s": round(time.process_time() - begin, 1)}


def add_penalty_outside(training: Training, times: int) -> None:
    """Take the penalty out of the closure and add `times` lam dR/dw once a step, at the unperturbed weights.

    The perturbation then comes from the loss alone. The optimizers restore the weights before their base takes its
    step, so the gradient is added there.
    """
    regularizer, lam, base = training.regularizer, training.lam, training.optimizer.base
    update = base.step

    def step() -> Any:
        with torch.enable_grad():
            regularizer.backward(times * lam)
        return update()

    base.step = step
    training.regularizer = sparsity.load("regularizers", "none")([])


def measure(task: Task, model: nn.Module, config: TrialConfig) -> dict[str, Any]:
    """Test accuracies; how many layers global pruning removes whole, and how many weights it leaves in the one with the
    fewest; how the regularized weights are spread."""
    acc: dict[str, Any] = {}
    removed: dict[str, int] = {}
    fewest: dict[str, int] = {}
    for name, change in SCOPES.items():
        found = evaluate_pruned(task, model, config.model_copy(update=change), (0.0, *LEVELS), "test")
        acc["dense"] = rounded(found.metrics[0.0]["acc"])
        acc[name] = {f"{level:g}": rounded(found.metrics[level]["acc"]) for level in LEVELS}
        if name == "global":
            left = {f"{level:g}": [int(mask.sum()) for mask in found.masks[level].values()] for level in LEVELS}
            removed = {level: counts.count(0) for level, counts in left.items()}
            fewest = {level: min(counts) for level, counts in left.items()}
    weights = [weight.detach() for weight in task.regularized(model).values()]
    variances = [layer_statistics(w, torch.ones_like(w, dtype=torch.bool))["abs_variance"] for w in weights]
    return {
        "acc": acc,
        "layers_removed": removed,
        "fewest_left": fewest,
        "v_mean": rounded(statistics.fmean(variances)),
        "v_geometric": rounded(math.exp(statistics.fmean(math.log(max(v, 1e-30)) for v in variances))),
        "norm": rounded(math.sqrt(sum(w.double().square().sum().item() for w in weights))),
    }


def curvature(task: Task, model: nn.Module, seed: int) -> float:
    """The largest eigenvalue of the Hessian of the loss on the first training images, without augmentation."""
    batch = next(iter(task.batches("train", CURVATURE_IMAGES)))
    return hessian_eigenvalue(
        lambda images: task.loss(model, images),
        [p for p in model.parameters() if p.requires_grad],
        [batch],
        num_iterations=CURVATURE_ITERATIONS,
        generator=torch.Generator().manual_seed(seed),
    )


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


# ---- which trainings there are -------------------------------------------------------------------------------------


@functools.cache
def initial_config(optimizer: str, regularizer: str) -> TrialConfig:
    """The arm's initial point in its search space."""
    (arm,) = make_arms(choose(SWEEP, optimizer=(optimizer,), regularizer=(regularizer,)))
    return make_config(SWEEP, arm.choices, arm.initial_point)


def training_jobs(arms: Mapping[tuple[str, str], TrialConfig], seeds: Sequence[int]) -> Iterator[TrainingJob]:
    """All trainings, seed by seed, so that an interrupted run has complete pairs.

    arms: (optimizer, regularizer) -> configuration, of any seed.
    """
    for number, seed in enumerate(seeds):
        for (optimizer, regularizer), config in arms.items():
            arm = f"{optimizer} + {regularizer}"
            labels = {"optimizer": optimizer, "regularizer": regularizer, "seed": seed}
            seeded = config.model_copy(update={"seed": seed})
            yield TrainingJob(f"arm/{arm}/seed={seed}", {"ablation": "arm", **labels}, seeded, curvature=True)
            for times in PLACEMENTS.get(optimizer, ()) if regularizer != "none" else ():
                placed = {"ablation": "outside", **labels, "times": times}
                yield TrainingJob(f"outside {times}x/{arm}/seed={seed}", placed, seeded, num_outside=times)
        if number < NUM_VARIANCE_SEEDS:
            yield from variance_jobs(arms, seed)


def variance_jobs(arms: Mapping[tuple[str, str], TrialConfig], seed: int) -> Iterator[TrainingJob]:
    """WCR over lam and weight decay. All else has the values of the initial points: the selected ones differ by arm."""
    epochs = next(iter(arms.values())).max_epochs
    for optimizer, decay, lam in itertools.product(("sgd", "sam"), WEIGHT_DECAYS, LAMS):
        config = initial_config(optimizer, "wcr")
        opt = {**config.opt, "weight_decay": decay}
        config = config.model_copy(update={"opt": opt, "lam": lam, "seed": seed, "max_epochs": epochs})
        labels = {"ablation": "variance", "optimizer": optimizer, "weight_decay": decay, "lam": lam, "seed": seed}
        yield TrainingJob(f"variance/{optimizer}/weight_decay={decay:g}/lam={lam:g}/seed={seed}", labels, config)
