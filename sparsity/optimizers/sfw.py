import math

import torch
from torch import Tensor

from sparsity.optimizers._arguments import check_nonnegative, keywords, refuse_unknown
from sparsity.optimizers._eager import Optimizer

__all__ = ["SFW"]

MODES = ("initialization", "diameter", "radius")
RESCALES = ("gradient", "diameter", "none")


class SFW(Optimizer):
    """Stochastic Frank-Wolfe on the K-sparse polytope: w <- (1 - eta) w + eta v, towards the vertex v that d favours.

    d <- momentum d + (1 - momentum) g, d = g at first. v = -r sign(d) at the K largest |d|, 0 elsewhere: it minimizes
    <d, v> over the polytope, the convex hull of vectors with K entries of -r or r = {|w|_inf <= r, |w|_1 <= K r}.
    K = min(max(min_k, floor(k_fraction n)), n) and r = D / (2 sqrt(K)) in each tensor, D the polytope's L2 diameter.
    Source: Lu et al., "Learning pruning-friendly networks via Frank-Wolfe: one-shot, any-sparsity, and no retraining",
    ICLR 2022, and the authors' code for the defaults.
    params: tensors of more than one dimension are constrained. Others (biases, norm scales, gates) are not: the default
        initialization of their layer, hence their D, cannot be told from the tensor, and pruning leaves them. They
        take w <- w - lr d, the length of step that rescale "gradient" gives. (The authors constrain them as well.)
    At construction (and by add_param_group) weights outside the polytope are scaled into it, in place, by the largest
        factor that does: so build it after the weights have their values. Convexity keeps them inside. (The authors
        round the factor down to a smaller multiple.)
    lr: >= 0; the source's is 1.0. rescale: what eta, clamped to [0, 1], is: "gradient" lr |d| / |w - v|, a step of
        length lr |d|; "diameter" lr / D; "none" or None lr itself.
    mode: what tau > 0 sets: "initialization" D = 2 tau N, N the norm that torch's default initialization gives to a
        linear or convolution weight, sqrt(shape[0] / 3) (root mean square; the mean that the source samples is less by
        one part in 10 n); "diameter" D = tau; "radius" r = tau. Embeddings count as linear weights.
        Choosing tau: with rescale "gradient" a step shrinks what is left of the initial weights by the factor 1 - eta,
        where eta is about lr |d| / (tau N), so they are gone once lr times the sum of |d| over all steps is several tau
        N. The source's 15 is for 200 epochs on CIFAR; a run with fewer steps needs a smaller tau. Below a tau that
        depends on the data (about 1 on scikit-learn's digits) the polytope is too small to fit it.
    momentum: in [0, 1). k_fraction: in (0, 1]; the fewer the nonzero elements of a vertex, the sparser the weights.
    min_k: >= 1.
    SFW-Init, a scale for each layer that is learned on data before training, off in the WCR paper's runs, is not here.
    It takes no base and no weight decay, and is nobody's base. step(closure) calls the closure once.
    Cost: 1 gradient a step and a top-k a tensor; 1 x the weights of memory (d), within the step 3 x the largest tensor.
    ValueError for a argument out of its range or unknown, a base, a weight decay.
    """

    is_base = False

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
        if decay := unknown.pop("weight_decay", 0):
            raise ValueError(f"SFW: weight_decay must be 0 or left out (the polytope bounds the weights), got {decay}")
        if "base" in unknown:
            raise ValueError(f"SFW: base must be left out (its step is no other's update), got {unknown['base']!r}")
        refuse_unknown("SFW", unknown, keywords(SFW))
        arguments = {"momentum": momentum, "k_fraction": k_fraction, "min_k": min_k, "tau": tau, "mode": mode}
        super().__init__(params, {"lr": lr, **arguments, "rescale": rescale or "none"})

    def add_param_group(self, param_group: dict) -> None:
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            if p.dim() > 1:
                _scale_inside(p, *polytope(p, group))

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                d = self._average(p, p.grad, group["momentum"])
                if p.dim() > 1:
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


def polytope(p: Tensor, group: dict) -> tuple[int, float]:
    """(K, r) of a tensor."""
    k = min(max(int(group["min_k"]), int(group["k_fraction"] * p.numel())), p.numel())
    tau = group["tau"]
    if group["mode"] == "radius":
        return k, tau
    diameter = tau if group["mode"] == "diameter" else 2 * tau * math.sqrt(p.shape[0] / 3)
    return k, diameter / (2 * math.sqrt(k))


def vertex(d: Tensor, k: int, radius: float) -> Tensor:
    """-r sign(d) at the k largest |d|, 0 elsewhere (and where d is 0)."""
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
    largest, total = p.abs().max(), p.abs().sum()
    factor = torch.minimum(radius / largest, k * radius / total).clamp(max=1)  # inf for zeros: 1
    p.mul_(factor).clamp_(-radius, radius)  # the product's rounding


def _check(group: dict) -> None:
    check_nonnegative("SFW", lr=group["lr"])
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"SFW: momentum must be in [0, 1) (at 1 no gradient enters), got {group['momentum']}")
    if not 0 < group["k_fraction"] <= 1:
        raise ValueError(f"SFW: k_fraction must be in (0, 1] (K may not be above n), got {group['k_fraction']}")
    if not group["min_k"] >= 1 or group["min_k"] != int(group["min_k"]):
        raise ValueError(f"SFW: min_k must be a whole number >= 1, got {group['min_k']}")
    if not 0 < group["tau"] < math.inf:
        raise ValueError(f"SFW: tau must be > 0 and finite (it sets the size of the polytope), got {group['tau']}")
    for argument, choices in (("mode", MODES), ("rescale", RESCALES)):
        if group[argument] not in choices:
            raise ValueError(f"SFW: {argument} must be one of {', '.join(choices)}, got {group[argument]!r}")
