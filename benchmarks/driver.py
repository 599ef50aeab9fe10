"""What the driver of a sweep costs beside the trials, against the number of trials and workers, without training."""

import contextlib
import heapq
import io
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["BENCHMARKS", "simulate"]

SIZES = ((200, 64), (1_000, 64), (3_000, 256), (10_000, 1_000))  # trials, workers
COMMANDS = (["status", "simulated"], ["report", "simulated", "--format", "text"], ["best"])
LARGEST = SIZES[-1]
TMPFS = Path("/dev/shm")


def driver() -> dict:
    """CPU time of the driver per trial, with simulated workers: proposals, records, progress and the summary."""
    rows = {}
    for num_trials, num_workers in SIZES:
        with memory_folder() as runs:
            rows[f"{num_trials} trials, {num_workers} workers"] = simulate(runs, num_trials, num_workers)
    return {"driver": rows}


def commands() -> dict:
    """Seconds that the commands on records take for a sweep of 10,000 trials."""
    rows = {}
    with memory_folder() as runs:
        simulate(runs, *LARGEST)
        for command in COMMANDS:
            measured = []
            for _ in range(3):
                begin, before = time.perf_counter(), os.times()
                words = [sys.executable, "-m", "sweeps", *command, "--runs", str(runs)]
                subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
                after = os.times()
                cpu = after.children_user + after.children_system - before.children_user - before.children_system
                measured.append((cpu, time.perf_counter() - begin))
            cpu, wall = min(measured)
            rows[" ".join(word for word in command if word != "simulated")] = {"wall_s": wall, "cpu_s": cpu}
    return {"commands": rows}


def simulate(runs: Path, num_trials: int, num_workers: int) -> dict[str, float]:
    """Drive a sweep as Tune does, with workers that only wait.

    A trial of the search takes 0.8 to 1.2 units of time, with the usual eight evaluations, and leaves a result. As in
    Tune, the driver is asked for a trial after each event while a worker is free, and for the number of trials that are
    left after each end.

    Args:
        runs: The folder of the records.
        num_trials: Number of trials in the search; the confirmation has a few more.
        num_workers: Number of trials at once.

    Returns:
        Milliseconds of CPU time per trial: of all trials, of the first and of the last quarter, without the worker's
        part; and the seconds of the summary, which is made once.
    """
    from rich.console import Console

    from service.cluster.tune_adapter import TrialRecorder, TrialSource
    from service.records.recorder import Recorder
    from service.records.summary import summarize
    from service.search.phases import Phases
    from service.search.space import make_arms
    from service.views.progress import Progress
    from sweeps.digits import SWEEP

    rng = np.random.default_rng(0)
    arms = make_arms(SWEEP)
    sizes = {"num_trials": math.ceil(num_trials / len(arms)), "num_search_seeds": 1}
    spec = SWEEP.model_copy(update={"name": "simulated", "runs": runs, **sizes})
    records = Recorder(spec.folder)
    records.sweep_begun(spec.identity(), data="made up")
    records.search_started(initial_points={}, num_parallel=num_workers, adopted={})
    spent: list[float] = []  # at the end of each trial
    clock = Clock()
    with clock:
        phases = Phases(spec, arms, records)
        sizes = {"num_search": phases.num_search, "num_confirm": phases.num_confirm}
        records.run_started(None, **sizes)
        console = Console(file=io.StringIO(), width=120)
        progress = Progress(console, title=spec.name, num_trials=sum(sizes.values()), objective="acc")
        source, recorder = TrialSource(phases), TrialRecorder(records, phases, progress)
    running: list[tuple[float, int, Iterator[tuple[float, dict[str, Any]]]]] = []
    names, now, finished = itertools.count(), 0.0, False
    while True:
        while not finished and len(running) < num_workers:
            with clock:
                config = source.suggest(str(next(names)))
            finished = config == "FINISHED"
            if not isinstance(config, dict):
                break
            heapq.heappush(running, (now, next(names), trial(spec.folder, config, rng)))
        if not running:
            break
        now, name, worker = heapq.heappop(running)
        seconds, result = next(worker)
        with clock:
            recorder.on_trial_result(0, [], None, result)
            if result["done"]:
                _ = phases.num_left
        if result["done"]:
            spent.append(clock.seconds)
        else:
            heapq.heappush(running, (now + seconds, name, worker))
    assert phases.complete()
    begin = time.thread_time()
    records.summarized(summarize(records.state, objective="acc", complete=True))
    summary = time.thread_time() - begin
    records.close()
    quarter = len(spent) // 4
    return {
        "num_trials": len(spent),
        "ms": 1000 * spent[-1] / len(spent),
        "first_quarter_ms": 1000 * spent[quarter] / quarter,
        "last_quarter_ms": 1000 * (spent[-1] - spent[-1 - quarter]) / quarter,
        "summary_s": summary,
    }


class Clock:
    """CPU seconds of this thread inside its `with` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.begin = time.thread_time()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.thread_time() - self.begin


def trial(sweep: Path, config: Mapping[str, Any], rng: np.random.Generator) -> Iterator[tuple[float, dict[str, Any]]]:
    """What a worker reports: the time to the next report, and the report. The last one comes with a result.json."""
    from trainables.config import TrialConfig

    checked = TrialConfig.model_validate(config)
    value = math.exp(-((math.log10(checked.lam or 1e-5) + 4.5) ** 2)) - 0.01 * float(rng.uniform())
    numbers = {"loss": 0.25, "penalty": 3.0, "lr": 0.1, "acc_dense": 0.9, "acc_pruned": value}
    evaluations = [{"epoch": epoch, "seconds": 0.3 * epoch, **numbers} for epoch in checked.evaluation_epochs]
    sent = {"key": checked.key, "status": "running", "reason": "", "done": False}
    for evaluation in evaluations[:-1]:
        seconds = float(rng.uniform(0.8, 1.2)) / len(evaluations)
        yield seconds, {**sent, "epoch": evaluation["epoch"], "evaluation": evaluation}
    method = checked.pruning[0]
    curve = [{"sparsity": s, "acc": value, "loss": 0.5, "collapsed": 0.0} for s in checked.levels]
    pruned = {"label": method.label, "method": method.model_dump(mode="json"), "curve": curve}
    layer = {"num_weights": 1000, "num_kept": 40, "shape": [10, 100], "histogram": rng.integers(1, 99, 60).tolist()}
    result = {
        "report": evaluations[-1] | {"status": "finished", "reason": ""},
        "config": dict(config),
        "evaluations": evaluations[:-1],
        "notes": [],
        "warnings": [],
        "objective": "acc",
        "pruned": [{**pruned, "test": curve if checked.read_test else None}],
        "diagnostics": {"loss_gap": 0.5, "penalty_ratio_max": 0.5, "penalty_ratio_median": 0.25},
        "layers": [{"name": f"layer{i}.weight", **layer} for i in range(8)],
    }
    folder = sweep / "trials" / checked.key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result))
    yield 0.0, {**sent, "status": "finished", "done": True, "epoch": checked.max_epochs}


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """A temporary folder, in memory if there is room: waiting for a disk takes no CPU time but minutes."""
    roomy = TMPFS.is_dir() and shutil.disk_usage(TMPFS).free > 2e9
    with tempfile.TemporaryDirectory(prefix="driver-", dir=TMPFS if roomy else None) as name:
        yield Path(name)


BENCHMARKS = (driver, commands)
