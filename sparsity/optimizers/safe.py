import math
from typing import ClassVar

import torch
from torch import Tensor

from sparsity.arguments import whole_number
from sparsity.optimizers._arguments import check_nonnegative
from sparsity.optimizers._magnitude_masks import keep_largest, parse_scope, sparse_weights
from sparsity.optimizers._with_base import OptimizerWithBase
from sparsity.ranges import Range

__all__ = ["SAFE"]


class SAFE(OptimizerWithBase):
    """SAFE: SAM with ADMM, which pulls w towards its sparse projection z.

    It looks for a minimum that is flat and, up to a small distance, sparse. z is the nearest point to w + u in the set
    of weights with the given sparsity: w + u with its smallest magnitudes set to 0. u is the scaled dual variable. Each
    step updates w with the base and the gradient

        (gradient at w + e) + lam_t (w - z + u),    e = rho g / |g|, with g the gradient at w

    where the norm is joint over all parameters that have a gradient. Every `interval` steps, z and u follow, also of
    weights that have no gradient in this step:

        z <- projection of w + u
        u <- u + w - z

    At the first step, z is the projection of w, and u = 0. With `num_steps`, lam_t rises from 0 to `admm_lam` as
    admm_lam (1 - cos(pi t / num_steps)) / 2, where t counts the steps from 0. Without it, lam_t = admm_lam.

    With a gated regularizer (`sparsity.gates.Gated`), w is the parameter theta. The projection ranks |theta|, not the
    effective weight |theta z|, and with `WeightFactorization` the first factor.

    `step(closure)` calls the closure at w and again at w + e, and returns the loss at w. If rho is 0, it calls the
    closure once, and the method is ADMM. If admm_lam is 0, the step is SAM's. w itself stays dense: prune it by
    magnitude at the same sparsity and in the same scope afterwards.

    Choosing admm_lam: without the task's gradient, w - z shrinks by the factor 1 - lr lam_t / (1 - momentum) in a step
    of SGD. What matters is therefore admm_lam times the sum of the learning rates. The reference's 1e-4 and 1e-3 are
    for 200 epochs of CIFAR (about 80,000 steps); shorter runs need more. On scikit-learn's digits, 640 steps with a
    peak learning rate of 0.1 need about 0.1.

    Args:
        params: Parameters or parameter groups; a group can have its own rho. Tensors of more than one dimension are
            made sparse, except those of a group with `dense` = True, which is for position embeddings. These, biases,
            normalization scales and gates are updated as by SAM.
        lr: Learning rate of the base.
        rho: L2 radius in units of w, >= 0.
        sparsity: Fraction of zeros in z, in [0, 1): the sparsity at which the network will be pruned.
        scope: "global" compares magnitudes over all tensors, "uniform" within each tensor. "n:m", such as "2:4", keeps
            n of every m consecutive input channels and ignores `sparsity`.
        admm_lam: Strength of the pull, >= 0, in units of loss / w^2; lambda in the reference.
        interval: Number of steps between updates of z and u, >= 1.
        num_steps: Number of steps of the training, for the schedule of lam_t; None for a constant lam_t.
        base: File name of the optimizer that updates w: "sgd" or "adamw".
        **base_arguments: Arguments of the base, such as momentum and weight_decay.

    Raises:
        ValueError: If an argument is out of its range or unknown, a group has an argument that concerns all
            groups, the closure is missing, or a gradient is sparse.

    Reference:
        Lee, Lee, Chung & Lee, "SAFE: finding sparse and flat minima to improve pruning", ICML 2025, arXiv 2506.06866,
        with the defaults of the authors' code (github.com/LOG-postech/safe-jax). Departures: exactly the given fraction
        is 0 in z, and normalization scales are left out of the ADMM terms.

    Cost:
        2 gradients per step (1 if rho is 0), and a top-k selection every `interval` steps. The memory of the base, 2 x
        the weights (z and u) and, within the step, 1 x the weights (w), or 3 x in the steps that update z and u.
    """

    makes_sparse = True
    shared = ("sparsity", "scope", "admm_lam", "interval", "num_steps")
    # search_spaces/cnn.py: admm_lam 1e-5 to 1e-2, initial 1e-4; small_cnn.py: 0.01 to 1, initial 0.1
    ranges: ClassVar = {"rho": Range(0.02, 1.0, 0.1), "admm_lam": Range(1e-5, 1.0, 1e-2)}

    def __init__(
        self,
        params,
        lr: float,
        *,
        rho: float = 0.1,
        sparsity: float = 0.9,
        scope: str = "global",
        admm_lam: float = 1e-4,
        interval: int = 32,
        num_steps: int | None = None,
        base: str = "sgd",
        **base_arguments,
    ):
        _check(sparsity, scope, admm_lam)
        super().__init__(
            params,
            lr,
            base=base,
            base_arguments=base_arguments,
            rho=rho,
            sparsity=sparsity,
            scope=scope,
            admm_lam=admm_lam,
            interval=whole_number("SAFE", "interval", interval, 1),
            num_steps=None if num_steps is None else whole_number("SAFE", "num_steps", num_steps, 1),
            steps_done=0,
        )

    @torch.no_grad()
    def step(self, closure=None):
        evaluate = self.evaluation(closure)
        loss = evaluate()
        if self.is_on and (gradients := self.gradients()):
            with self.displaced(gradients):
                evaluate()
        shared = self.param_groups[0]  # for the arguments that concern all groups together
        weights = self._sparse_weights() if shared["admm_lam"] else []
        self._pull(weights)
        self.base_step("projection", "dual")
        shared["steps_done"] += 1
        if shared["steps_done"] % shared["interval"] == 0:
            self._update_dual(weights)
        return loss

    def _sparse_weights(self) -> list[Tensor]:
        """The weights that z covers: all, because a weight may have no gradient in this step but in another one."""
        return [
            p
            for group in self.param_groups
            for p in sparse_weights([p for p in group["params"] if p.requires_grad], group)
        ]

    def _pull(self, weights: list[Tensor]) -> None:
        """Add lam_t (w - z + u) to the gradients."""
        if any("projection" not in self.state[p] for p in weights):
            for p, z in zip(weights, self._project(weights), strict=True):
                self.state[p].setdefault("projection", z)
                self.state[p].setdefault("dual", torch.zeros_like(p))
        lam, gradients = self._lam(), self.gradients()
        for p in weights:
            if p in gradients:
                distance = p.sub(self.state[p]["projection"]).add_(self.state[p]["dual"])
                gradients[p].add_(distance, alpha=lam)

    def _update_dual(self, weights: list[Tensor]) -> None:
        sums = [self.state[p]["dual"].add_(p) for p in weights]  # w + u
        for p, u, z in zip(weights, sums, self._project(sums), strict=True):
            u.sub_(z)
            self.state[p]["projection"] = z

    def _project(self, weights: list[Tensor]) -> list[Tensor]:
        shared = self.param_groups[0]
        masks = keep_largest(weights, shared["scope"], shared["sparsity"]) if weights else []
        return [weight * mask for weight, mask in zip(weights, masks, strict=True)]

    def _lam(self) -> float:
        """lam_t of the present step."""
        shared = self.param_groups[0]
        if shared["num_steps"] is None:
            return shared["admm_lam"]
        progress = min(shared["steps_done"] / shared["num_steps"], 1.0)
        return shared["admm_lam"] * (1 - math.cos(math.pi * progress)) / 2


def _check(sparsity: float, scope: str, admm_lam: float) -> None:
    check_nonnegative("SAFE", admm_lam=admm_lam)
    if not 0 <= sparsity < 1:
        raise ValueError(f"SAFE: sparsity must be in [0, 1) (the fraction removed), got {sparsity}")
    try:
        patterns = parse_scope(scope)
    except ValueError as error:
        raise ValueError(f"SAFE: {error}") from None
    if len(patterns) > 1:
        raise ValueError(f"SAFE: scope must be a single pattern (all steps project alike), got {scope!r}")
