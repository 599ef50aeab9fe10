"""What the methods cost beside the plain step: penalties, optimizer steps, masks. ResNet-18's 11.2 million weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune as torch_prune

import sparsity
from benchmarks._measure import compare
from sparsity import masks

__all__ = ["BENCHMARKS"]

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98)


def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return sparsity.find("trainables.architectures", "resnet18")(10)


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim > 1]


def plain_wcr(w, smooth=1e-8, eps=1e-8):
    a = (w * w + smooth).sqrt()
    return 1 / ((a * a).mean() - a.mean() ** 2 + eps)


def plain_l1(w):
    return w.abs().sum()


def plain_hoyer_square(w):
    return w.abs().sum() ** 2 / (w.square().sum() + 1e-12)


def penalties() -> dict:
    """Penalty and gradient: the plain formula under autograd, ours, and a plain copy of the weights."""
    weights = weights_of(resnet18())
    copies = [w.detach().clone() for w in weights]
    results = {}
    for name, plain in (("wcr", plain_wcr), ("l1", plain_l1), ("hoyer_square", plain_hoyer_square)):
        regularizer = sparsity.load("regularizers", name)(weights)

        def run(penalty: Callable[[], torch.Tensor]) -> None:
            for w in weights:
                w.grad = None
            penalty().backward()

        variants = {
            "plain autograd": lambda plain=plain: run(lambda: sum(plain(w) for w in weights)),
            "ours": lambda regularizer=regularizer: run(regularizer),
            "copy": lambda: [c.copy_(w.detach()) for c, w in zip(copies, weights, strict=True)],
        }
        results[name] = compare(variants, repeats=15)
    return results


def steps() -> dict:
    """A training step of ResNet-18 at batch 32 on 32x32 images: each optimizer against SGD, and SGD with WCR."""
    images, labels = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))

    def make(optimizer: str, regularizer: str, lam: float) -> Callable[[], None]:
        model = resnet18()
        penalty = sparsity.load("regularizers", regularizer)(weights_of(model))
        knobs = {} if optimizer == "sgd" else {"rho": 0.1}
        made = sparsity.load("optimizers", optimizer)(model.parameters(), lr=1e-3, **knobs)

        def closure():
            made.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(images), labels) + lam * penalty()
            loss.backward()
            return loss.detach()

        return lambda: made.step(closure)

    variants = {"sgd": make("sgd", "none", 0.0), "sgd + wcr": make("sgd", "wcr", 1e-5)}
    variants |= {name: make(name, "none", 0.0) for name in ("s2sam", "sam")}
    return {"step": compare(variants, repeats=7)}


def mask_levels() -> dict:
    """Masks at ten sparsities: torch's global pruning ten times, and one ranking of ours."""
    model = resnet18()
    modules = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d)]
    scores = [m.weight.detach().abs() for m, _ in modules]

    def theirs() -> None:
        for level in LEVELS:
            torch_prune.global_unstructured(modules, torch_prune.L1Unstructured, amount=level)
            for module, name in modules:  # back to the dense weight, without the cost of a copy
                dense = module.weight_orig.data
                torch_prune.remove(module, name)
                module.weight.data = dense

    def ours() -> None:
        ranking = masks.rank(scores)
        for level in LEVELS:
            ranking.masks(level)

    return {"ten levels": compare({"torch.nn.utils.prune": theirs, "ours": ours}, repeats=5)}


BENCHMARKS = (penalties, steps, mask_levels)
