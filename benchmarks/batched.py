"""Several small trials trained at once as one network: `python -m benchmarks.batched`. An experiment, not a part.

N trials of one architecture, each with weights, lam and rho of its own, on the same batches (as trials of one seed
are), two ways: torch.func's (`stack_module_state`, `vmap`), and by hand, where trial after trial is a group of
channels: convolutions with groups=N, BatchNorm over all channels, one batched product for the linear layer. Each step
is SGD with momentum, weight decay and WCR, or SAM's two gradients of that. Beside them the same trials one after the
other, on one thread. `ratio` is the time of a step of all N trials divided by N steps of a single one, so what one
process gains; two processes of single trials have 0.5.
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsity
from benchmarks._measure import compare
from sparsity.regularizers import _native

__all__ = ["Batched", "Grouped", "Vmapped", "batched"]

KNOBS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 3e-2}
CASES: dict[str, dict[str, Any]] = {
    "digits": {"model": {"width": 16, "depth": 3}, "shape": (64, 1, 8, 8)},
    "small CIFAR": {"model": {"width": 16, "depth": 6}, "shape": (64, 3, 32, 32)},
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
            torch._foreach_add_(gradients, self.parameters, alpha=KNOBS["weight_decay"])
            torch._foreach_mul_(self.velocity, KNOBS["momentum"])
            torch._foreach_add_(self.velocity, gradients)
            torch._foreach_add_(self.parameters, self.velocity, alpha=-KNOBS["lr"])

    def _gradients(self, images: Tensor, labels: Tensor) -> None:
        for p in self.parameters:
            p.grad = None
        self.losses(images, labels).sum().backward()  # the trials share nothing, so each has its own gradient
        weights = [p for p in self.parameters if p.dim() > 2]
        for i, lam in enumerate(self.lam.tolist()):
            pairs = [(p[i].detach(), p.grad[i]) for p in weights]
            _native.penalty("wcr", (1e-8, 1e-8), [w for w, _ in pairs], [g for _, g in pairs], lam=lam)


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


def batched(case: str, optimizer: str, *, counts=(4, 8, 16), repeats: int = 20) -> dict[str, dict]:
    """Variant -> `compare`'s numbers, with `ratio` as above, of one thread."""
    torch.manual_seed(0)
    build = sparsity.find("trainables.architectures", "small_resnet")
    shape = CASES[case]["shape"]
    images, labels = torch.randn(shape), torch.randint(0, 10, shape[:1])

    def models(num: int) -> list[nn.Module]:
        return [build(10, shape[1], **CASES[case]["model"]) for _ in range(num)]

    def single() -> Callable[[], None]:
        (model,) = models(1)
        R = sparsity.load("regularizers", "wcr")([p for p in model.parameters() if p.ndim > 1])
        knobs = KNOBS if optimizer == "sgd" else {**KNOBS, "rho": 0.1}
        made = sparsity.load("optimizers", optimizer)(model.parameters(), **knobs)

        def closure():
            made.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss.detach() + 1e-6 * R.backward(1e-6)

        return lambda: made.step(closure)

    variants: dict[str, Callable[[], None]] = {"single": single()}
    for num in counts:
        lam, rho = torch.logspace(-7, -5, num), torch.linspace(0.05, 0.2, num) * (optimizer == "sam")
        for name, cls in (("vmap", Vmapped), ("groups", Grouped)):
            trials = cls(models(num), lam, rho)
            variants[f"{name}, {num} trials"] = lambda trials=trials: trials.step(images, labels)
    measured = compare(variants, repeats=repeats, warmup=3)
    for name, values in measured.items():
        num = 1 if name == "single" else int(name.split()[1])
        values["ratio"], values["min_ratio"] = values["ratio"] / num, values["min_ratio"] / num
    return measured


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        for optimizer in ("sgd", "sam"):
            print(f"\n{case}, {optimizer}, one thread")
            for name, values in batched(case, optimizer, repeats=20 if case == "digits" else 5).items():
                at_least = f"{1000 * values['min_s']:8.2f} ms at least"
                print(f"  {name:20s} {at_least}   ratio {values['min_ratio']:.2f}, of medians {values['ratio']:.2f}")


if __name__ == "__main__":
    main()
