"""The cost of penalties, optimizer steps and masks on ResNet-18's 11.2 million weights."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune as torch_prune

import sparsity
from benchmarks._measure import compare
from sparsity import masks
from trainables.malloc import keep_freed_memory

__all__ = ["BENCHMARKS"]

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.92, 0.94, 0.96, 0.97, 0.98)


def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return sparsity.load("trainables.architectures", "resnet18")(10)


def weights_of(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim > 1]


def plain_wcr(w, smooth=1e-8, eps=1e-8):
    a = (w * w + smooth).sqrt()
    return 1 / ((a * a).mean() - a.mean() ** 2 + eps)


def plain_l1(w):
    return w.abs().sum()


def plain_hoyer_square(w):
    return w.abs().sum() ** 2 / (w.square().sum() + 1e-12)


@contextmanager
def threads(num: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def penalties() -> dict:
    """Penalty and gradient, added to existing gradients: plain autograd, ours, and a copy of the weights."""
    results = {}
    for num in sorted({1, torch.get_num_threads()}):  # a trial uses one
        with threads(num):
            results |= {f"{name}, {num} thread(s)": measured for name, measured in each_penalty().items()}
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


def perturbations() -> dict:
    """CPU time of an optimizer step without its gradients, which are given. One thread."""
    keep_freed_memory()
    variants = {}
    for name in OPTIMIZERS:
        parameters = list(resnet18().parameters())
        gradients = [torch.randn_like(p) * 1e-3 for p in parameters]
        made = make_optimizer(name, parameters)

        def closure(parameters=parameters, gradients=gradients):
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient
            return torch.zeros(())

        variants[name] = lambda made=made, closure=closure: made.step(closure)
    with threads(1):
        return {"ResNet-18": compare(variants, repeats=15, warmup=3, clock=time.process_time)}


def steps() -> dict:
    """CPU time of a training step of ResNet-18 on 32x32 images, relative to SGD.

    One thread, as in a trial.
    """
    keep_freed_memory()
    with threads(1):
        return {
            f"batch {size}": compare(step_variants(size), repeats=repeats, clock=time.process_time)
            for size, repeats in ((32, 9), (128, 4))
        }


OPTIMIZERS = ("sgd", "s2sam", "sam", "cram")


def make_optimizer(name: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    arguments = {} if name == "sgd" else {"rho": 0.1}
    return sparsity.load("optimizers", name)(parameters, lr=1e-3, weight_decay=5e-4, **arguments)


def training_step(
    batch_size: int, optimizer: str = "sgd", regularizer: str = "none", *, memory_format=torch.channels_last
) -> Callable[[], None]:
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=memory_format)
    labels = torch.randint(0, 10, (batch_size,))
    model = resnet18().to(memory_format=memory_format)
    penalty = sparsity.load("regularizers", regularizer)(weights_of(model))
    lam = 1e-5 if regularizer != "none" else 0.0
    made = make_optimizer(optimizer, list(model.parameters()))

    def closure():
        made.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss.detach() + lam * penalty.backward(lam)

    return lambda: made.step(closure)


def step_variants(batch_size: int) -> dict[str, Callable[[], None]]:
    variants = {"sgd": training_step(batch_size), "sgd + wcr": training_step(batch_size, "sgd", "wcr")}
    return variants | {name: training_step(batch_size, name) for name in OPTIMIZERS[1:]}


def layouts() -> dict:
    """CPU time of a step of ResNet-18 at batch 128 with each memory setting.

    One thread. Each setting has its own process, because a process cannot undo `keep_freed_memory`.
    """
    results = {}
    for name, keeps, layout in (
        ("as it is", False, "contiguous_format"),
        ("freed memory kept", True, "contiguous_format"),
        ("channels last", False, "channels_last"),
        ("both", True, "channels_last"),
    ):
        call = f"from benchmarks import methods; methods.print_step({keeps}, {layout!r})"
        done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
        results[name] = json.loads(done.stdout)
    for row in results.values():
        row["ratio"], row["min_ratio"] = (row[key] / results["as it is"][key] for key in ("median_s", "min_s"))
    return {"ResNet-18, batch 128": results}


def print_step(keeps: bool, layout: str) -> None:
    if keeps:
        keep_freed_memory()
    with threads(1):
        step = training_step(128, memory_format=getattr(torch, layout))
        (measured,) = compare({"step": step}, repeats=4, clock=time.process_time).values()
    print(json.dumps({"median_s": measured["median_s"], "min_s": measured["min_s"]}))


def mask_levels() -> dict:
    """Masks at ten sparsities: torch's global pruning ten times, and our single ranking."""
    model = resnet18()
    modules = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d)]
    scores = [m.weight.detach().abs() for m, _ in modules]

    def theirs() -> None:
        for level in LEVELS:
            torch_prune.global_unstructured(modules, torch_prune.L1Unstructured, amount=level)
            for module, name in modules:  # restore the dense weight without copying it
                dense = module.weight_orig.data
                torch_prune.remove(module, name)
                module.weight.data = dense

    def ours() -> None:
        ranking = masks.rank(scores)
        for level in LEVELS:
            ranking.masks(level)

    return {"ten levels": compare({"torch.nn.utils.prune": theirs, "ours": ours}, repeats=2, warmup=0)}


# `penalties` runs first: its plain autograd must not profit from `keep_freed_memory`, which the others call.
BENCHMARKS = (penalties, layouts, perturbations, steps, mask_levels)
