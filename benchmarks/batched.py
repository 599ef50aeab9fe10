"""Several small trials trained at once as one network: `python -m benchmarks.batched`. An experiment, not a part.

N trials of one architecture, each with weights, lam and rho of its own, on the same batches (as trials of one seed
are), two ways: torch.func's (`stack_module_state`, `vmap`), and by hand, where trial after trial is a group of
channels: convolutions with groups=N, BatchNorm over all channels, one batched product for the linear layer. Each step
is SGD with momentum, weight decay and WCR, or SAM's two gradients of that. Beside them the same trials one after the
other, and two processes of one trial each, all with one thread. `ratio` is the time of a step of all N trials divided
by N steps of a single one, so what one process gains; two processes have 0.5 where the machine has two idle cores.
The numbers go to benchmarks/results/DATE-DEVICE-batched.json, where docs/performance.md has its table from.
"""

import argparse
import contextlib
import copy
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsity
from benchmarks._measure import RESULTS, compare, device_name, slug
from sparsity import _kernels
from trainables.malloc import keep_freed_memory

__all__ = ["Batched", "Grouped", "Vmapped", "batched"]

ARGUMENTS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 3e-2}
CASES: dict[str, dict[str, Any]] = {
    "digits": {"model": {"width": 16, "depth": 3}, "shape": (64, 1, 8, 8), "sizes": {"repeats": 20}},
    "small CIFAR": {
        "model": {"width": 16, "depth": 6},
        "shape": (64, 3, 32, 32),
        "sizes": {"counts": (4, 8), "repeats": 4},
    },
}


class Batched:
    """N trials as one: `parameters` has each of the network's, stacked along dimension 0. A subclass defines
    `losses(images, labels)`, (N,). The update is that of sparsity/optimizers/sam.py on sgd.py, for each trial."""

    parameters: list[Tensor]

    def __init__(self, lam: Tensor, rho: Tensor):
        self.lam, self.rho = lam, rho
        self.velocity = [torch.zeros_like(p) for p in self.parameters]

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def step(self, images: Tensor, labels: Tensor) -> None:
        self._gradients(images, labels)
        with torch.no_grad():
            if self.rho.any():
                kept = [p.clone() for p in self.parameters]
                norm = sum(p.grad.flatten(1).square().sum(1) for p in self.parameters).sqrt()
                for p in self.parameters:
                    p.addcmul_(p.grad, along(self.rho / norm.clamp(min=1e-12), p))
                with torch.enable_grad():
                    self._gradients(images, labels)
                torch._foreach_copy_(self.parameters, kept)
            gradients = [p.grad for p in self.parameters]
            torch._foreach_add_(gradients, self.parameters, alpha=ARGUMENTS["weight_decay"])
            torch._foreach_mul_(self.velocity, ARGUMENTS["momentum"])
            torch._foreach_add_(self.velocity, gradients)
            torch._foreach_add_(self.parameters, self.velocity, alpha=-ARGUMENTS["lr"])

    def _gradients(self, images: Tensor, labels: Tensor) -> None:
        for p in self.parameters:
            p.grad = None
        self.losses(images, labels).sum().backward()  # the trials share nothing, so each has its own gradient
        weights = [p for p in self.parameters if p.dim() > 2]
        for i, lam in enumerate(self.lam.tolist()):
            pairs = [(p[i].detach(), p.grad[i]) for p in weights]
            _kernels.penalty("wcr", (1e-8, 1e-8), [w for w, _ in pairs], [g for _, g in pairs], lam=lam)


def along(values: Tensor, p: Tensor) -> Tensor:
    """(N,) as a factor of (N, ...)."""
    return values.view(-1, *(1,) * (p.dim() - 1))


class Vmapped(Batched):
    """By torch.func."""

    def __init__(self, models: list[nn.Module], lam: Tensor, rho: Tensor):
        self.stacked, self.buffers = torch.func.stack_module_state(models)
        self.model = copy.deepcopy(models[0]).to("meta")
        self.parameters = list(self.stacked.values())
        super().__init__(lam, rho)

    def losses(self, images, labels):
        def loss(parameters, buffers):
            return F.cross_entropy(torch.func.functional_call(self.model, (parameters, buffers), (images,)), labels)

        return torch.func.vmap(loss)(self.stacked, self.buffers)


class Grouped(Batched):
    """By hand: (samples, N x channels, H, W)."""

    def __init__(self, models: list[nn.Module], lam: Tensor, rho: Tensor):
        self.model = copy.deepcopy(models[0])
        self.num = len(models)
        stacked, _ = torch.func.stack_module_state(models)
        names = {name: p.detach().requires_grad_() for name, p in stacked.items()}
        first = True
        for name, module in list(self.model.named_modules()):
            own = {key: names[f"{name}.{key}"] for key in ("weight", "bias") if f"{name}.{key}" in names}
            if not own:
                continue
            parent = self.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], GroupedLayer(module, own, self.num, shared_input=first))
            first = False
        self.parameters = list(names.values())
        super().__init__(lam, rho)

    def losses(self, images, labels):
        logits = self.model(images)  # (samples, N, classes)
        every = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(self.num), reduction="none")
        return every.view(-1, self.num).mean(0)


class GroupedLayer(nn.Module):
    """A layer of all N trials: convolution, BatchNorm or linear. shared_input: the network's first layer."""

    def __init__(self, layer: nn.Module, own: dict[str, Tensor], num: int, *, shared_input: bool):
        super().__init__()
        self.kind, self.own, self.num, self.shared_input = type(layer).__name__, own, num, shared_input
        self.options = {k: getattr(layer, k) for k in ("stride", "padding") if hasattr(layer, k)}
        if isinstance(layer, nn.BatchNorm2d):
            self.mean, self.var = layer.running_mean.repeat(num), layer.running_var.repeat(num)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.own["weight"], self.own.get("bias")
        if self.kind == "Conv2d":
            return F.conv2d(x, weight.flatten(0, 1), groups=1 if self.shared_input else self.num, **self.options)
        if self.kind == "BatchNorm2d":
            return F.batch_norm(x, self.mean, self.var, weight.flatten(), bias.flatten(), training=True)
        x = x.view(len(x), self.num, -1).transpose(0, 1)  # Linear: (N, samples, channels)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2)).transpose(0, 1)


def single(case: str, optimizer: str) -> Callable[[], None]:
    """The step of one trial as the task trains it: channels last, which vmap and groups gain nothing from."""
    shape = CASES[case]["shape"]
    images, labels = examples(shape)
    images = images.contiguous(memory_format=torch.channels_last)
    model = build(case).to(memory_format=torch.channels_last)
    R = sparsity.load("regularizers", "wcr")([p for p in model.parameters() if p.ndim > 1])
    arguments = ARGUMENTS if optimizer == "sgd" else {**ARGUMENTS, "rho": 0.1}
    made = sparsity.load("optimizers", optimizer)(model.parameters(), **arguments)

    def closure():
        made.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss.detach() + 1e-6 * R.backward(1e-6)

    return lambda: made.step(closure)


def build(case: str) -> nn.Module:
    return sparsity.load("trainables.architectures", "small_resnet")(
        10, CASES[case]["shape"][1], **CASES[case]["model"]
    )


def examples(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return torch.randn(shape), torch.randint(0, 10, shape[:1])


def serve(pipe: Connection, case: str, optimizer: str) -> None:
    """In a process of its own: a step for each message, an answer after it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    step = single(case, optimizer)
    while pipe.recv():
        step()
        pipe.send(True)


@contextlib.contextmanager
def processes(num: int, case: str, optimizer: str) -> Iterator[Callable[[], None]]:
    """A function that has each of `num` processes take a step, at once, and waits for the last."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(num):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, case, optimizer), daemon=True).start()
        pipes.append(ours)

    def step() -> None:
        for pipe in pipes:
            pipe.send(True)
        for pipe in pipes:
            pipe.recv()

    try:
        yield step
    finally:
        for pipe in pipes:
            pipe.send(False)


def batched(case: str, optimizer: str, *, counts=(4, 8, 16), repeats: int = 20) -> dict[str, dict]:
    """Variant -> `compare`'s numbers, with `ratio` as above."""
    torch.manual_seed(0)
    images, labels = examples(CASES[case]["shape"])
    variants: dict[str, Callable[[], None]] = {"single": single(case, optimizer)}
    for num in counts:
        lam, rho = torch.logspace(-7, -5, num), torch.linspace(0.05, 0.2, num) * (optimizer == "sam")
        for name, cls in (("vmap", Vmapped), ("groups", Grouped)):
            trials = cls([build(case) for _ in range(num)], lam, rho)
            variants[f"{name}, {num} trials"] = lambda trials=trials: trials.step(images, labels)
    with processes(2, case, optimizer) as step:
        measured = compare({**variants, "processes, 2 trials": step}, repeats=repeats, warmup=3)
    for name, values in measured.items():
        num = 1 if name == "single" else int(name.split()[1])
        values["ratio"], values["min_ratio"] = values["ratio"] / num, values["min_ratio"] / num
        del values["seconds"]
    return measured


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "device": device_name(), "torch": torch.__version__}
    record["results"] = {}
    path = RESULTS / f"{record['date']}-{slug(record['device'])}-batched.json"
    for case in CASES:
        for optimizer in ("sgd", "sam"):
            print(f"\n{case}, {optimizer}, one thread")
            measured = batched(case, optimizer, **CASES[case]["sizes"])
            record["results"][f"{case}, {optimizer}"] = measured
            for name, values in measured.items():
                at_least = f"{1000 * values['min_s']:8.2f} ms at least"
                print(f"  {name:20s} {at_least}   ratio {values['min_ratio']:.2f}, of medians {values['ratio']:.2f}")
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
