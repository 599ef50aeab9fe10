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
    """Penalty and gradient, added to gradients that are there: plain autograd, ours, and a copy of the weights."""
    threads = torch.get_num_threads()
    results = {}
    try:
        for num in sorted({1, threads}):  # a trial has one
            torch.set_num_threads(num)
            results |= {f"{name}, {num} thread(s)": measured for name, measured in each_penalty().items()}
    finally:
        torch.set_num_threads(threads)
    return results


def each_penalty() -> dict:
    weights = weights_of(resnet18())
    copies, gradients = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    results = {}
    for name, plain in (("wcr", plain_wcr), ("l1", plain_l1), ("hoyer_square", plain_hoyer_square)):
        regularizer = sparsity.load("regularizers", name)(weights)

        def run(penalty: Callable[[], object]) -> None:
            for w, gradient in zip(weights, gradients, strict=True):
                w.grad = gradient
            penalty()

        variants = {
            "plain autograd": lambda plain=plain: run(lambda: (1e-5 * sum(plain(w) for w in weights)).backward()),
            "R.backward(lam)": lambda R=regularizer: run(lambda: R.backward(1e-5)),
            "(lam * R()).backward()": lambda R=regularizer: run(lambda: (1e-5 * R()).backward()),
            "copy": lambda: [c.copy_(w.detach()) for c, w in zip(copies, weights, strict=True)],
        }
        results[name] = compare(variants, repeats=15, warmup=3)
    return results


def steps() -> dict:
    """A training step of ResNet-18 on 32x32 images: SGD with WCR and each optimizer, against SGD alone."""
    return {f"batch {size}": compare(step_variants(size), repeats=repeats) for size, repeats in ((32, 9), (128, 5))}


def step_variants(batch_size: int) -> dict[str, Callable[[], object]]:
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(0, 10, (batch_size,))

    def make(optimizer: str, regularizer: str, lam: float) -> Callable[[], None]:
        model = resnet18()
        penalty = sparsity.load("regularizers", regularizer)(weights_of(model))
        knobs = {} if optimizer == "sgd" else {"rho": 0.1}
        made = sparsity.load("optimizers", optimizer)(model.parameters(), lr=1e-3, weight_decay=5e-4, **knobs)

        def closure():
            made.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss.detach() + lam * penalty.backward(lam)

        return lambda: made.step(closure)

    variants = {"sgd": make("sgd", "none", 0.0), "sgd + wcr": make("sgd", "wcr", 1e-5)}
    return variants | {name: make(name, "none", 0.0) for name in ("s2sam", "sam", "cram")}


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

    return {"ten levels": compare({"torch.nn.utils.prune": theirs, "ours": ours}, repeats=3, warmup=0)}


BENCHMARKS = (penalties, steps, mask_levels)
