import math
from typing import cast

import torch
from torch import Tensor

from sparsity.arguments import whole_number
from sparsity.gates import Gate, Gated
from sparsity.ranges import Range

__all__ = ["WeightFactorization"]

# Weights below this are counted as zero: float32's machine epsilon, as in the reference.
ZERO = torch.finfo(torch.float32).eps


class WeightFactorization(Gated):
    """Deep weight factorization: w = product of D factors, with L2 penalties.

    The model computes with w = f_1 f_2 ... f_D, elementwise, and R = (|f_1|^2 + ... + |f_D|^2) / D, summed over all
    weights. Of all factors with the product w, those of equal magnitude have the smallest R, which is

        sum |w|^(2/D)

    Minimizing loss + lam R over the factors is therefore minimizing loss + lam sum |w|^(2/D) over w, and local minima
    correspond. D = 2 is the lasso with the lam of `l1` (spred). With D > 2 the penalty is nonconvex and sparser. The
    objective is smooth, so plain SGD gets weights to 0 without thresholds: they fall below float32's epsilon, and
    pruning them changes nothing.

    f_1 is the weight's own parameter, and the D - 1 other factors are the gates. The optimizer's weight decay does not
    act on any factor, because R replaces it (`take_decay`). It still acts on other parameters.

    `initialize` sets the factors. init "random" is the reference's: with s the root mean square of the tensor, each
    factor is drawn from N(0, s^(2/D)), truncated to eps^(1/D) <= |f| <= min(1, 2 s)^(1/D). No factor starts at 0, where
    training would be stuck. The weights' own values are lost. The bounds change the product's standard deviation, for
    D = 2 to 4 to 0.3 to 0.8 s if s is 0.02 to 0.3, to 0.8 to 0.9 s if s is 0.01, and to 0.15 to 0.3 s if s is 1.
    init "weights" draws the D - 1 other factors in the same way and sets f_1 to w divided by their product. The network
    then starts from its own weights, as a pretrained one should. In both, a tensor of zeros, such as LoRA's B, stays
    zero and has other factors of 1. Without `initialize`, f_1 = w and the other factors are 1.

    Choosing lam (`Gated` defines S, here for the learning rate of the weights): without the task's gradient, SGD
    shrinks w by about exp(-2 lam S), for any D. Weights that the task does not need are therefore small enough to be
    pruned if lam S is about 3. On scikit-learn's digits, with 640 steps and S of about 300, pruning 0.96 of the weights
    leaves an accuracy of 0.09 at lam 1e-4 and 1e-3, and of 0.978 at lam 1e-2.
    The gradient of a factor is that of w times the product of the others, which is small. The reference therefore
    trains with larger learning rates than usual.

    Args:
        weights: Tensors of any shape, each the parameter of one module; `attach(model)` puts the other factors there.
        num_factors: D, a whole number >= 2; 3 or 4 is best in the reference.
        init: "random" or "weights".
        eps: Smallest |w| that a product of truncated factors can have, > 0. Tensors with a root mean square s below
            2 eps use s / 2.
        gate_lr: Learning rate of the other factors, > 0; None for the learning rate of the weights, as in the
            reference.

    Raises:
        ValueError: If an argument is out of its range, or init is unknown.

    Reference:
        Kolb, Weber, Bischl & Ruegamer, "Deep weight factorization: sparse learning through the lens of artificial
        symmetries", ICLR 2025, arXiv 2502.02496, algorithm 1 for init "random". D = 2: Ziyin & Wang, "spred: solving L1
        penalty with SGD", ICML 2023, arXiv 2210.01212. The default eps is ours.

    Cost:
        No extra gradient evaluation. Memory in multiples of the weights: D - 1 for the other factors, plus their
        gradients and optimizer state; D - 1 in the graph of a forward pass (w and the partial products). Measured on
        one CPU thread for a ResNet of width 16 on 8 x 8 images, for D = 2 to 4: a step takes 1.8 times as long as
        without a penalty at batch 64, and 1.4 to 1.7 times at batch 128.
    """

    # search_spaces/cnn.py: 1e-6 to 1e-3, initial 1e-4; small_cnn.py: 1e-3 to 0.1, initial 1e-2
    lam_range = Range(1e-6, 1e-1, 1e-3)

    def __init__(
        self,
        weights,
        *,
        num_factors: int = 3,
        init: str = "random",
        eps: float = 3e-3,
        gate_lr: float | None = None,
    ):
        num_factors = whole_number("WeightFactorization", "num_factors", num_factors, 2)
        if init not in ("random", "weights"):
            raise ValueError(f"WeightFactorization: init must be one of random, weights, got {init!r}")
        if not 0 < eps < math.inf:
            raise ValueError(
                f"WeightFactorization: eps must be > 0 and finite (factors must not start at 0), got {eps}"
            )
        super().__init__(weights, lambda weight: Factors(weight, num_factors - 1), gate_lr=gate_lr)
        self.num_factors, self.init, self.eps = num_factors, init, eps

    @torch.no_grad()
    def initialize(self):
        for weight, others in zip(self.weights, self.gates, strict=True):
            factors = self._draw(weight)
            if self.init == "weights":
                product = factors[1:].prod(0)
                factors[0] = torch.where(product == 0, 0, weight.to(product.dtype) / product)
            is_zero = (weight == 0).all()
            weight.copy_(torch.where(is_zero, weight, factors[0].to(weight.dtype)))
            cast(Factors, others).factors.copy_(torch.where(is_zero, 1.0, factors[1:]).flatten())

    def _draw(self, weight: Tensor) -> Tensor:
        """Draw D factors of a weight: a tensor (D, *shape)."""
        dtype = torch.promote_types(weight.dtype, torch.float32)
        s = weight.to(dtype).square().mean().sqrt()
        std, high = s ** (1 / self.num_factors), (2 * s).clamp(max=1) ** (1 / self.num_factors)
        low = torch.minimum(s.new_tensor(self.eps), s / 2) ** (1 / self.num_factors)
        # A truncated normal by its inverse distribution function: uniform between the probabilities of the bounds.
        probability = torch.rand((self.num_factors, *weight.shape), dtype=torch.float64, device=weight.device)
        a, b = (torch.special.ndtr((bound / std).double()) for bound in (low, high))
        magnitude = torch.special.ndtri(a + (b - a) * probability).to(dtype) * std
        sign = torch.randint(0, 2, magnitude.shape, device=weight.device) * 2 - 1
        return magnitude.clamp(low, high) * sign

    def take_decay(self, weight_decay):
        return self.weights

    def penalty(self, weight):
        first = weight.to(torch.promote_types(weight.dtype, torch.float32)).square().sum()
        return (super().penalty(weight) + first) / self.num_factors

    def gate_penalty(self, gate, num_weights):
        return gate.factors.square().sum()

    def diagnostics(self):
        """Return gates_closed: the fraction of weights with |w| below float32's epsilon, 1.2e-7."""
        pairs = zip(self.weights, self.gate_values(), strict=True)
        num_zero = sum(int((weight.detach() * others).abs().lt(ZERO).sum()) for weight, others in pairs)
        return {"gates_closed": num_zero / max(1, sum(weight.numel() for weight in self.weights))}


class Factors(Gate):
    """The other factors of one weight.

    The trained parameter is `factors`, of shape (num_others * num_gates,).
    """

    def __init__(self, weight: Tensor, num_others: int):
        super().__init__(weight)
        self.num_others = num_others
        self.factors = torch.nn.Parameter(self.parameter(weight, 1.0).detach().repeat(num_others))

    def values(self, training):
        product, *others = self.factors.view(self.num_others, self.num_gates)
        for factor in others:
            product = product * factor
        return product
