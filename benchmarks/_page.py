"""docs/performance.md out of a record of `python -m benchmarks`: each goal, and what was measured beside it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks._measure import RESULTS

__all__ = ["page"]

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def page(record: Mapping[str, Any]) -> str:
    results = record["results"]
    goals = as_table(("what", "against", "goal", "measured"), table(results))
    sections = TEXT.format(
        ways=ways(results.get("ways/wcr", {})),
        perturbations=perturbations(results.get("perturbations/ResNet-18", {})),
        layouts=layouts(results.get("layouts/ResNet-18, batch 128", {})),
        batched=batched(),
        searches=searches(),
    )
    return HEAD.format(**record) + goals + "\n" + GPU.format(measured=gpu_results()) + sections


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, ["---"] * len(head), *rows))


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
    rows.append(("24 short digits trials", *sweep_row(results.get("sweeps/sweeps", {}))))
    if memory := results.get("memory/memory"):
        few, every = memory["a tenth"], memory["all"]
        told = (
            f"{every['private_MB'] - few['private_MB']:.0f} MB more of its own with "
            f"{every['data_MB'] - few['data_MB']:.0f} MB more data"
        )
        rows.append(("memory of one more CIFAR-10 trial", "its model and optimizer", "data not counted again", told))
    if start := results.get("start/start"):
        own = start["--help"]
        told = f"{own['median_s']:.2f} s, at least {own['min_s']:.2f} s; {own['cpu_s']:.2f} CPU s"
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
    told = "; ".join(
        f"{name}: {row['wall_ratio']:.2f} of the sweep's time a trial, {row['cpu_ratio']:.2f} of its CPU time "
        f"({row['wall_s']:.0f} s, {row['cpu_s']:.0f} CPU s for {row['num_trials']})"
        for name, row in sweeps.items()
        if name != "the sweep"
    )
    if own := sweeps.get("the sweep"):
        told += f"; the sweep: {own['wall_s']:.0f} s, {own['cpu_s']:.0f} CPU s, "
        told += f"{own['of_ideal_after_start']:.2f} of the ideal after start-up"
    return (
        "plain Optuna in two processes; plain Ray Tune with a function",
        "1.0; 2.5; after start-up 0.95 of the ideal",
        told or "not measured in this run",
    )


# ---- tables in the text ----------------------------------------------------------------------------------------------


def ways(measured: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (name, milliseconds(row), f"{row['first_s']:.2f}" if "first_s" in row else "", WHY.get(name, ""))
        for name, row in measured.items()
    ]
    return as_table(("way", "ms", "first call, s", "why not"), rows)


WHY = {
    "closed form under autograd, in cache-sized blocks": "the fallback: allocation, and ten operations a block",
    "multi-tensor (foreach) operations in place": "each is a pass over memory",
    "blocks in place, into the gradients that are there": "nine operations a block, each at the speed of the cache",
    "torch.compile, dynamic shapes": "the first call, in each process, is as long as a short trial",
    "C, one pass for mean and variance, one for the gradient": "taken",
}


def perturbations(measured: Mapping[str, Mapping[str, Any]]) -> str:
    return as_table(
        ("a step without its gradients", "ms"), [(name, milliseconds(row)) for name, row in measured.items()]
    )


def milliseconds(row: Mapping[str, Any]) -> str:
    return f"{1000 * row['min_s']:.1f}"


def layouts(measured: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [(name, f"{row['median_s']:.2f}", f"{row['ratio']:.2f}") for name, row in measured.items()]
    return as_table(("a step of ResNet-18, batch 128", "CPU s", "ratio"), rows)


def batched() -> str:
    """The last run of `python -m benchmarks.batched`."""
    files = sorted(RESULTS.glob("*-batched.json"))
    if not files:
        return "It has not been run.\n"
    record = json.loads(files[-1].read_text())
    names = list(dict.fromkeys(name for measured in record["results"].values() for name in measured))
    rows = [
        (case, *(f"{measured[name]['min_ratio']:.2f}" if name in measured else "" for name in names))
        for case, measured in record["results"].items()
    ]
    return (
        as_table(("network, optimizer", *names), rows)
        + f"\n({record['date']}, {record['device']}; of the least times.)\n"
    )


def searches() -> str:
    """The last run of `python -m benchmarks.searches`."""
    files = sorted(RESULTS.glob("*-searches.json"))
    if not files:
        return "It has not been run.\n"
    results = json.loads(files[-1].read_text())["results"]
    names = list(next(iter(results.values())))
    rows = [
        (case, *(f"{row['busy']:.2f}, {row['best']:.3f} ± {row['best_error']:.3f}" for row in measured.values()))
        for case, measured in results.items()
    ]
    return as_table(("", *names), rows)


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

What was tried for WCR (`benchmarks/_ways.py`), in CPU milliseconds on one thread, least of interleaved repeats:

{ways}
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
bytes: `masked_fill_` takes three times as long there. CrAM's threshold is NumPy's partition of the magnitudes. In CPU
milliseconds on one thread, ResNet-18:

{perturbations}
## A step on a CPU

Images and convolutions are channels last (it was for GPUs alone), and a trial's process keeps the memory that it frees
(`trainables/malloc.py`): glibc gives what is larger than 32 MB back to the system, which clears its pages anew for
each activation of each step. It stays as large as its peak, 5% more here. Results differ from those of earlier commits
by rounding; the tables that are dated by such a commit stay as they are.

{layouts}
UNet gains 10% (ResNet-50) to 30% (MobileNetV2) from channels last.

## The start of a sweep

In CPU seconds, digits with two trials at once: the driver 3 (torch 1.3, Ray and Tune 1, SciPy 0.5), Ray's own processes
5, MLflow with a new database 3, in a thread beside Ray's start, and each trial's process 4 (Ray 0.8, torch 1.5, Tune 1,
its data and first batches): 19, in 12 seconds until the first step, of which the driver's 3 come first, on one core.
What was tried:

- Bytecode. Where PYTHONDONTWRITEBYTECODE is set, as images of containers do, each process compiles torch, Ray and
  MLflow from their source: all of the above takes 33 CPU s. `make` unsets it, and so do the measurements here, for all
  contenders.
- Looking for garbage while modules are imported costs the driver 0.5 s, and at its end 2 s: it is off then, but at the
  end of a process with triton, which would list what is left as leaked.
- torch.optim imports torch's compiler in each process, at its first optimizer and first step: 1.5 CPU s with bytecode,
  3.5 without, and 150 MB, to tell it where not to trace. `sparsity/optimizers/_eager.py` does without.
- Importing torch while Ray starts would hide 2.5 s. It was not done: what is wrong with a command is said once torch is
  there, at once and with nothing started; a Ray that is half up would have to be waited for, then ended, before. (Ray
  in a thread beside the imports ends its own processes with that thread.)

## What a trial costs beside its training

The ideal is half of the seconds that the trials themselves measured, in training and evaluation. Where others use the
machine, the contenders' seconds do not compare, since they run one after the other: then go by the CPU seconds.

A worker goes from a trial's end to the next one's start in 20 ms, in the same process, also where several end at once:
Tune would end all but one of the workers that nothing is ready for. (24 trials took 232 s where each of those that
came instead imported torch and Ray once more, and compiled them, and 137 without both.) A worker seldom waits for the
slowest of its neighbours: an arm's proposals leave out its last few results, in a fixed number, so that they do not
depend on which came first (generations that wait for their last one, which were here before, kept workers
busy for 0.80 to 0.90 of the time). `python -m benchmarks.searches`, simulated, has the share of the workers' time that
is spent in trials, and the best value found with its standard error (the optimum is 1, the noise 0.01):

{searches}
As busy as where each proposal takes what has ended and, within two standard errors, as good or better; twice the lag is
worse and no busier.

What is left between the sweep and plain Optuna is its start, and MLflow: 0.3 to 0.4 CPU s a trial in the driver, more
than half of them for two figures, which with two trials on two cores makes each trial of 9 s longer by half a second to
one. With a tracking server that does not answer, the same trials take what they take under plain Optuna. Drawing once
instead of twice would save 15% of a figure, no constrained layout 16%, and cut labels off: not done. Checkpoints, the
pruned network and the result take 0.1 s of a trial. Tune with a function starts Python and torch anew for each trial,
4 CPU s each: with bytecode that is half of what it was, and so the goal of 2.5 is out of reach for trials of 9 s, whose
training alone is half of Tune's time.

## Several trials as one network

`python -m benchmarks.batched`: N trials of one network on the same batches, each with its own lam and rho, on one
thread, by vmap and by hand as groups of channels; a trial's step, beside that of a trial by itself. Digits is width 16,
depth 3, 8x8, small CIFAR width 16, depth 6, 32x32, both at batch 64.

{batched}
Even on digits it is 1.4 times at best, where 2 was the goal, and on 32x32 images it loses: the convolutions are bound
by arithmetic, and N times the activations no longer fit the cache. Two processes on two idle cores, which is what a
sweep does, have 0.55 to 0.7. Trials as one network would also have to start and stop together, of one optimizer and one
seed. So it stays an experiment.
"""
