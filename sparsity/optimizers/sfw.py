import math
from typing import ClassVar

import torch
from torch import Tensor

from sparsity.arguments import whole_number
from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown
from sparsity.optimizers._magnitude_masks import sparse_weights
from sparsity.optimizers._without_compiler import Optimizer
from sparsity.ranges import Range

__all__ = ["SFW"]

MODES = ("initialization", "diameter", "radius")
RESCALES = ("gradient", "diameter", "none")


class SFW(Optimizer):
    """Stochastic Frank-Wolfe: each step moves w towards a sparse vertex.

        d <- momentum d + (1 - momentum) g, with d = g at the first step
        v  = -r sign(d) at the K largest |d|, 0 elsewhere
        w <- (1 - eta) w + eta v

    The vertex v minimizes <d, v> over the polytope {|w|_inf <= r, |w|_1 <= K r}, the convex hull of the vectors with K
    entries of -r or r. Each tensor has its own K = min(max(min_k, floor(k_fraction n)), n) and r = D / (2 sqrt(K)),
    where n is its number of elements and D the L2 diameter of its polytope. `mode` defines D and `rescale` eta.

    Only tensors of more than one dimension are constrained, except those of a parameter group with `dense` = True,
    which is for position embeddings. These, biases, normalization scales and gates take w <- w - lr d instead: pruning
    leaves them alone, and a tensor does not tell how its layer initialized it, which D depends on. (The authors
    constrain them too.)

    With a gated regularizer (`sparsity.gates.Gated`), w is the parameter theta. The polytope constrains theta, not the
    effective weight theta z, and with `WeightFactorization` the first factor.

    Build the optimizer after the weights have their initial values. The constructor and `add_param_group` scale weights
    outside of their polytope into it, in place, by the largest factor that suffices, except frozen ones
    (requires_grad = False). Convexity keeps them inside. (The authors round that factor down to a smaller multiple.)

    Choosing tau: with rescale "gradient", a step shrinks what is left of the initial weights by the factor 1 - eta,
    where eta is about lr |d| / (tau N). The initial weights have vanished once lr times the sum of |d| over all steps
    is several tau N. The reference's 15 is for 200 epochs on CIFAR; shorter runs need a smaller tau. Below a tau that
    depends on the data, about 1 on scikit-learn's digits, the polytope is too small to fit the data.

    `step(closure)` calls the closure once and returns its loss; without a closure it uses the gradients that are there.
    SFW has no base and no weight decay, and cannot be a base. SFW-Init, which learns a scale for each layer before
    training, is not implemented; the WCR paper does not use it.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate, >= 0; 1.0 in the reference.
        momentum: In [0, 1).
        k_fraction: In (0, 1]. Fewer nonzero elements in a vertex give sparser weights.
        min_k: Lower bound of K, a whole number >= 1.
        tau: Size of the polytope, > 0, see `mode`.
        mode: What tau sets. "initialization": D = 2 tau N, where N = sqrt(shape[0] / 3) is the root mean square norm of
            a linear or convolution weight under torch's default initialization (the reference samples the mean norm,
            which is smaller by one part in 10 n; embeddings count as linear weights). "diameter": D = tau. "radius":
            r = tau.
        rescale: Definition of eta, which is clamped to [0, 1]. "gradient": lr |d| / |w - v|, a step of length lr |d|.
            "diameter": lr / D. "none" or None: lr.

    Raises:
        ValueError: If an argument is out of its range or unknown, or a base or a weight decay is given.

    Reference:
        Lu et al., "Learning pruning-friendly networks via Frank-Wolfe: one-shot, any-sparsity, and no retraining", ICLR
        2022. The defaults are those of the authors' code.

    Cost:
        1 gradient and one top-k selection per tensor and step. 1 x the weights of memory (d) and, within the step, 3 x
        the largest tensor.
    """

    is_base = False
    makes_sparse = True
    # search_spaces/cnn.py: tau 3 to 50, for 200 epochs; small_cnn.py: 0.5 to 15, initial 1.0, for 640 steps
    ranges: ClassVar = {
        "tau": Range(0.5, 50.0, 1.0),
        "k_fraction": Range(1e-3, 0.1, 3e-3),
    }

    def __init__(
        self,
        params,
        lr: float,
        *,
        momentum: float = 0.9,
        k_fraction: float = 0.05,
        min_k: int = 10,
        tau: float = 15.0,
        mode: str = "initialization",
        rescale: str | None = "gradient",
        **unknown,
    ):
        _refuse_decay(unknown.pop("weight_decay", 0))
        if "base" in unknown:
            raise ValueError(f"SFW: base must be left out (SFW updates the weights itself), got {unknown['base']!r}")
        refuse_unknown("SFW", unknown, keywords(SFW))
        arguments = {"momentum": momentum, "k_fraction": k_fraction, "min_k": min_k, "tau": tau, "mode": mode}
        super().__init__(params, {"lr": lr, **arguments, "rescale": rescale})

    def add_param_group(self, param_group: dict) -> None:
        given = {**self.defaults, **param_group}
        given["rescale"] = given["rescale"] or "none"
        _check(given)
        super().add_param_group(given)
        group = self.param_groups[-1]
        for p in _constrained(group):
            if p.requires_grad:
                _scale_inside(p, *polytope(p, group))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            constrained = {id(p) for p in _constrained(group)}
            for p in group["params"]:
                if p.grad is None:
                    continue
                d = self._average(p, p.grad, group["momentum"])
                if id(p) in constrained:
                    _move(p, d, group)
                else:
                    p.add_(d, alpha=-group["lr"])
        return loss

    def _average(self, p: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = gradient.clone()
        else:
            state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return state["momentum_buffer"]


def _constrained(group: dict) -> list[Tensor]:
    return [p for p in sparse_weights(group["params"], group) if p.numel()]


def polytope(p: Tensor, group: dict) -> tuple[int, float]:
    """Return K and r of a tensor's polytope."""
    k = min(max(int(group["min_k"]), int(group["k_fraction"] * p.numel())), p.numel())
    tau = group["tau"]
    if group["mode"] == "radius":
        return k, tau
    diameter = tau if group["mode"] == "diameter" else 2 * tau * math.sqrt(p.shape[0] / 3)
    return k, diameter / (2 * math.sqrt(k))


def vertex(d: Tensor, k: int, radius: float) -> Tensor:
    """Return -r sign(d) at the k largest |d|, 0 elsewhere and where d is 0."""
    flat = d.flatten()
    largest = flat.abs().topk(k, sorted=False).indices
    return torch.zeros_like(flat).index_copy_(0, largest, flat[largest].sign() * -radius).view(d.shape)


def _move(p: Tensor, d: Tensor, group: dict) -> None:
    k, radius = polytope(p, group)
    v = vertex(d, k, radius)
    if group["rescale"] == "gradient":
        gap = torch.linalg.vector_norm(p - v).clamp(min=torch.finfo(p.dtype).tiny)
        p.lerp_(v, (group["lr"] * torch.linalg.vector_norm(d) / gap).clamp(max=1))
    else:
        diameter = 2 * radius * math.sqrt(k)
        p.lerp_(v, min(group["lr"] / diameter if group["rescale"] == "diameter" else group["lr"], 1.0))


@torch.no_grad()
def _scale_inside(p: Tensor, k: int, radius: float) -> None:
    largest = p.abs().max().to(torch.promote_types(p.dtype, torch.float32))
    total = p.abs().sum(dtype=largest.dtype)  # float16 ends at 65,504
    factor = torch.minimum(radius / largest, k * radius / total).clamp(max=1)  # zeros give inf, hence 1
    p.mul_(factor).clamp_(-radius, radius)  # rounding can exceed r


def _refuse_decay(decay: float) -> None:
    if decay:
        raise ValueError(f"SFW: weight_decay must be 0 or left out (the polytope bounds the weights), got {decay}")


def _check(group: dict) -> None:
    _refuse_decay(group.get("weight_decay", 0))
    check_nonnegative("SFW", lr=group["lr"])
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"SFW: momentum must be in [0, 1) (at 1 no gradient enters), got {group['momentum']}")
    if not 0 < group["k_fraction"] <= 1:
        raise ValueError(f"SFW: k_fraction must be in (0, 1] (K may not be above n), got {group['k_fraction']}")
    whole_number("SFW", "min_k", group["min_k"], 1)
    if not 0 < group["tau"] < math.inf:
        raise ValueError(f"SFW: tau must be > 0 and finite (it sets the size of the polytope), got {group['tau']}")
    for argument, choices in (("mode", MODES), ("rescale", RESCALES)):
        if group[argument] not in choices:
            raise ValueError(f"SFW: {argument} must be one of {', '.join(choices)}, got {group[argument]!r}")
