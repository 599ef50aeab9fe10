"""docs/performance.md out of a record of `python -m benchmarks`: each goal, and what was measured beside it."""

import json
from collections.abc import Mapping
from typing import Any

from benchmarks._measure import RESULTS

__all__ = ["page"]

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def page(record: Mapping[str, Any]) -> str:
    results = record["results"]
    rows = [("what", "against", "goal", "measured"), ("---",) * 4, *table(results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return HEAD.format(**record) + "\n".join(lines) + "\n" + GPU.format(measured=gpu_results()) + TEXT


def table(results: Results) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, title, goal in (
        ("wcr", "WCR's penalty and gradient, ResNet-18's 11.2M weights", "10 times faster, 3 copies at most"),
        ("l1", "l1, likewise", "8 times faster"),
        ("hoyer_square", "Hoyer-square, likewise", "8 times faster"),
    ):
        parts = []
        for key, variants in results.items():
            if key.startswith(f"penalties/{name}, "):
                parts.append(f"{key.split(', ')[1]}: {penalty(variants)}")
        rows.append((title, "plain autograd, as the paper writes it; a copy of the weights", goal, "; ".join(parts)))
    large, small = (results.get(f"steps/batch {size}", {}) for size in (128, 32))
    for name, title, goal in (
        ("sgd + wcr", "a step with WCR, ResNet-18", "1.02 at batch 128"),
        ("s2sam", "an S2SAM step", "1.03"),
        ("sam", "a SAM step", "2.03"),
        ("cram", "a CrAM+ step", "2.10"),
    ):
        told = [f"batch {size}: {ratio(steps[name])}" for size, steps in ((128, large), (32, small)) if name in steps]
        rows.append((title, "the SGD step", goal, "; ".join(told)))
    if masks := results.get("mask_levels/ten levels"):
        rows.append(
            ("masks at 10 levels, one sort", "torch.nn.utils.prune ten times", "8 times faster", faster(masks["ours"]))
        )
    if shares := results.get("evaluations/evaluations"):
        told = "; ".join(f"{name}: {row['share']:.1%}" for name, row in shares.items())
        rows.append(("pruned evaluations during training", "the whole trial", "under 5%", told))
    if sweeps := results.get("sweeps/sweeps"):
        rows.append(("24 short digits trials", *sweep_row(sweeps)))
    if memory := results.get("memory/memory"):
        few, every = memory["a tenth"], memory["all"]
        told = (
            f"{every['private_MB'] - few['private_MB']:.0f} MB more of its own with "
            f"{every['data_MB'] - few['data_MB']:.0f} MB more data"
        )
        rows.append(("memory of one more CIFAR-10 trial", "its model and optimizer", "data not counted again", told))
    if start := results.get("start/start"):
        told = f"{start['--help']['median_s']:.2f} s, at least {start['--help']['min_s']:.2f} s"
        rows.append(("`python sweeps/digits.py --help`", "", "under 1 s", told))
    return rows


def penalty(variants: Mapping[str, Mapping[str, Any]]) -> str:
    plain, ours, copy = variants["plain autograd"], variants["R.backward(lam)"], variants["copy"]
    return (
        f"{plain['median_s'] / ours['median_s']:.1f} times ({1000 * plain['median_s']:.1f} to "
        f"{1000 * ours['median_s']:.1f} ms), {ours['median_s'] / copy['median_s']:.1f} copies"
    )


def ratio(measured: Mapping[str, Any]) -> str:
    return f"{measured['ratio']:.3f} (of the least: {measured['min_ratio']:.3f})"


def faster(measured: Mapping[str, Any]) -> str:
    return f"{1 / measured['ratio']:.0f} times"


def sweep_row(sweeps: Mapping[str, Mapping[str, Any]]) -> tuple[str, str, str]:
    own = sweeps["the sweep"]
    told = "; ".join(
        f"{name}: {row['ratio']:.2f} of the sweep's time a trial ({row['wall_s']:.0f} s for {row['num_trials']})"
        for name, row in sweeps.items()
        if name != "the sweep"
    )
    return (
        "plain Optuna in two processes; plain Ray Tune with a function",
        "1.0; 2.5; after start-up 0.95 of the ideal",
        f"{told}; the sweep {own['wall_s']:.0f} s, {own['of_ideal_after_start']:.2f} of the ideal after start-up",
    )


def gpu_results() -> str:
    files = sorted(RESULTS.glob("*-gpu.json"))
    if not files:
        return "It has not been run on a GPU yet."
    record = json.loads(files[-1].read_text())
    return (
        f"Last run: {record['date']}, {record['device']}, [`{files[-1].name}`](../benchmarks/results/{files[-1].name})."
    )


HEAD = """# What it costs

Written by `make bench` ({date}, {device}, torch {torch}); not to be edited: `benchmarks/_page.py` has the
text. Ratios are of medians in one run, the variants taking turns; each number of the run is in `benchmarks/results/`.

"""

GPU = """
On a GPU: `python -m benchmarks.gpu --help`. {measured}

"""

TEXT = """## How the penalties are computed

`R.backward(lam)` adds `lam dR/dw` to the gradients that the loss has left, in two passes over the weights and without a
temporary: C (`sparsity/regularizers/_kernels.c`), compiled by the machine's own compiler at first use, in half a
second, and kept in `~/.cache/sparsity-sweeps`. `R()` is as before a differentiable scalar, and runs the same kernels.
Without a compiler, on a GPU, in another type than float32, and under `create_graph`, the formulas in PyTorch run: the
tests hold both against autograd in float64 (value and gradient within a relative 2e-6 in float32, 1e-9 in float64).
A result does not depend on the number of threads.

What was tried for WCR, in CPU milliseconds on one thread, least of interleaved repeats, beside 52 of plain autograd and
2.7 of a copy:

| way | ms | why not |
| --- | --- | --- |
| closed form under autograd, in cache-sized blocks | 31 | the fallback: allocation, and ten operations a block |
| multi-tensor (foreach) operations in place | 30 | each is a pass over memory |
| blocks in place, into the gradients that are there | 24 | nine operations a block, each at the speed of the cache |
| torch.compile, dynamic shapes | 10.4 | 4.5 s of CPU time a process with a warm cache, 6.4 s without; a trial has 7 s |
| C, one pass for mean and variance, one for the gradient | 4.0 | taken |

Mean and variance in one pass (tile by tile, merged as Chan, Golub & LeVeque do) is what makes two passes of three.
Fusing the gradient with weight decay and momentum would save one of a step's five passes over memory, 2 ms of a step
that takes hundreds, and would tie every penalty to every optimizer: not done. Neither is a penalty every k steps: at
4 ms there is nothing to save.

l1 is bound by memory: its value and gradient take one pass (read w, read and write g), 1.1 to 1.2 copies, and nothing
that writes the gradient can do with less. Plain autograd takes 4 copies where its allocations are cheap and 9 where the
system has to clear new pages for them, so the same kernel is 4 to 9 times as fast from run to run.

## The optimizers

S2SAM, SAM and CrAM+ add to their gradients one copy of the weights, one norm, one perturbation and one copy back, a
pass each. The displacement is not written to memory on a CPU (`add` with a factor), and CrAM multiplies by its mask's
bytes: `masked_fill_` takes three times as long there. CrAM's threshold is NumPy's partition of the magnitudes, 11 ms of
11.2M. On one thread that is 11 ms for S2SAM and SAM (14 before) and 41 ms for CrAM+ (87 before), of a step of 2.5 s at
batch 128 and 0.65 s at batch 32.

## Several trials as one network

`python -m benchmarks.batched`: N trials of one network on the same batches, each with its own lam and rho, on one
thread; a trial's step, beside that of a trial by itself.

| network | 4 trials | 8 trials | 16 trials |
| --- | --- | --- | --- |
| digits (width 16, depth 3, 8x8, batch 64), vmap | 0.94 | 0.90 | 0.91 |
| the same, by hand as groups of channels | 0.66 | 0.65 | 0.72 |
| small CIFAR (width 16, depth 6, 32x32, batch 64), vmap | 1.23 | 1.64 | 2.92 |
| the same, by hand as groups of channels | 1.08 | 1.17 | 2.24 |

Even on digits it is 1.5 times at best, SAM's step 1.4 times, where 2 was the goal, and on 32x32 images it loses: the
convolutions are bound by arithmetic, and N times the activations no longer fit the cache. Two processes on two cores
have 2 at best (not measured beside it). Trials would also have to start and stop together, of one optimizer and one
seed. So it stays an experiment.
"""
