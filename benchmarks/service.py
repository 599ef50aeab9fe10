"""What the service costs beside the training in it: a sweep of short digits trials against what one would write without
it, the memory of one more trial, the start of a command, and the share of evaluations.

Each contender is a process of its own, timed from its start to its end, on two cores, one thread a trial. All trials
train the same network for as many epochs with SAM and WCR, which is all of a trial's work; lam and rho are searched.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["BENCHMARKS"]

NUM_TRIALS = 24
NUM_TRIALS_TUNE = 8  # it takes minutes for 24; seconds a trial are compared
TRIAL: dict[str, Any] = {
    "dataset": "digits",
    "architecture": "small_resnet",
    "model": {"width": 16, "depth": 3},
    "optimizer": "sam",
    "regularizer": "wcr",
    "lr_schedule": "one_cycle",
    "max_epochs": 40,
    "batch_size": 64,
    "target_sparsity": 0.96,
    "sparsities": [0.9, 0.94, 0.98],
}
SWEEP = "--optimizer sam --regularizer wcr --tuning paper --search-seeds 1 --confirm 0 --concurrent 2 --no-export"
SWEEP += f" --epochs {TRIAL['max_epochs']}"


def objective(lam: float, rho: float) -> tuple[float, float]:
    """What a user's own function would do: train, prune, evaluate. (accuracy at the target, seconds)."""
    import torch

    from trainables.config import TrialConfig
    from trainables.loop import load_task, train

    torch.set_num_threads(1)
    begin = time.perf_counter()
    opt = {"lr": 0.1, "weight_decay": 3e-2, "rho": rho}
    config = TrialConfig.model_validate({**TRIAL, "lam": lam, "opt": opt})
    _, evaluation = train(load_task(config), config)
    return evaluation.metrics[config.target_sparsity]["acc"], time.perf_counter() - begin


def plain_optuna(storage: str, num_trials: int) -> None:
    """One of two processes: `study.optimize` on a journal that both share, until there are as many trials."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="digits",
        storage=optuna.storages.JournalStorage(JournalFileBackend(storage)),
        direction="maximize",
        load_if_exists=True,
    )

    def run(trial: optuna.Trial) -> float:
        value, seconds = objective(
            trial.suggest_float("lam", 1e-6, 1e-4, log=True), trial.suggest_float("rho", 0.02, 0.5, log=True)
        )
        trial.set_user_attr("seconds", seconds)
        return value

    study.optimize(run, callbacks=[optuna.study.MaxTrialsCallback(num_trials, states=None)])


def plain_tune(num_trials: int, out: str) -> None:
    """`tune.Tuner` with a function trainable, as its guide has it."""
    import ray
    from ray import tune

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)

    def trainable(config: Mapping[str, float]) -> dict:
        value, seconds = objective(config["lam"], config["rho"])
        return {"acc": value, "train_s": seconds}

    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"lam": tune.loguniform(1e-6, 1e-4), "rho": tune.loguniform(0.02, 0.5)},
        tune_config=tune.TuneConfig(metric="acc", mode="max", num_samples=num_trials),
    )
    results = tuner.fit()
    Path(out).write_text(json.dumps([result.metrics["train_s"] for result in results]))


def sweeps() -> dict:
    """24 short digits trials: the sweep, plain Optuna in two processes, plain Ray Tune with a function (8 trials)."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        result = {"the sweep": timed_sweep(folder)}
        storage = folder / "optuna.log"
        call = f"from benchmarks import service; service.plain_optuna({str(storage)!r}, {NUM_TRIALS})"
        spent = timed(*[[sys.executable, "-c", call]] * 2)
        seconds = optuna_seconds(storage)
        result["plain Optuna"] = {**spent, "num_trials": len(seconds), "train_s": sum(seconds)}
        out = folder / "tune.json"
        call = f"from benchmarks import service; service.plain_tune({NUM_TRIALS_TUNE}, {str(out)!r})"
        spent = timed([sys.executable, "-c", call])
        seconds = json.loads(out.read_text())
        result["plain Ray Tune"] = {**spent, "num_trials": NUM_TRIALS_TUNE, "train_s": sum(seconds)}
    own = result["the sweep"]
    for row in result.values():
        for kind in ("wall", "cpu"):
            row[f"{kind}_ratio"] = (row[f"{kind}_s"] / row["num_trials"]) / (own[f"{kind}_s"] / own["num_trials"])
    return {"sweeps": result}


def timed_sweep(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "sweeps/digits.py", *SWEEP.split(), "--trials", str(NUM_TRIALS), "--runs", str(folder)]
    spent = timed(command)
    ends, seconds = [], []
    for path in folder.rglob("result.json"):
        ends.append(path.stat().st_mtime)
        seconds.append(json.loads(path.read_text())["report"]["seconds"])
    began = min(end - spent for end, spent in zip(ends, seconds, strict=True))
    busy = sum(seconds) / 2 / (max(ends) - began)
    return {**spent, "num_trials": len(ends), "train_s": sum(seconds), "of_ideal_after_start": busy}


def optuna_seconds(storage: Path) -> list[float]:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    study = optuna.load_study(
        study_name="digits", storage=optuna.storages.JournalStorage(JournalFileBackend(str(storage)))
    )
    return [trial.user_attrs["seconds"] for trial in study.trials if trial.state.is_finished()]


def timed(*commands: list[str]) -> dict[str, float]:
    """Until all of them, started together, have ended well: seconds, and CPU seconds with what they start, which other
    work on the machine hardly changes. CalledProcessError if one has not."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PYTHONDONTWRITEBYTECODE"] = ""  # as Python is unless one forbids it: an import compiles once
    begin = time.perf_counter()
    running = [
        subprocess.Popen(c, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands
    ]
    spent: dict[int, float] = {}
    while any(process.poll() is None for process in running):
        spent |= cpu_seconds({process.pid for process in running})
        time.sleep(0.5)
    wall = time.perf_counter() - begin
    for process in running:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return {"wall_s": wall, "cpu_s": sum(spent.values())}


def cpu_seconds(roots: set[int]) -> dict[int, float]:
    """Process -> CPU seconds so far, of processes and all that descend from them. Linux's /proc; empty elsewhere."""
    seconds, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # behind the name: state, parent, ...
        except OSError:  # it has ended
            continue
        pid = int(stat.parent.name)
        parents[pid] = int(fields[1])
        seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descends(pid: int) -> bool:
        while pid in parents and pid not in roots:
            pid = parents[pid]
        return pid in roots

    return {pid: s for pid, s in seconds.items() if descends(pid)}


def start() -> dict:
    """`python sweeps/digits.py --help`, against Python alone: seconds, and CPU seconds."""
    rows = {}
    for name, command in (("python", ["-c", "pass"]), ("--help", ["sweeps/digits.py", "--help"])):
        walls, cpus = [], []
        for _ in range(7):
            begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            walls.append(time.perf_counter() - begin)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        rows[name] = {"median_s": statistics.median(walls), "min_s": min(walls), "cpu_s": statistics.median(cpus)}
    return {"start": rows}


def evaluations() -> dict:
    """The share of a digits trial that evaluating pruned copies takes."""
    import torch

    from trainables.config import TrialConfig
    from trainables.loop import Training, load_task

    torch.set_num_threads(1)
    config = TrialConfig.model_validate({**TRIAL, "lam": 1e-5, "opt": {"lr": 0.1, "weight_decay": 3e-2, "rho": 0.1}})
    training = Training(load_task(config), config)
    training.run_epoch()
    begin = time.perf_counter()
    for _ in range(2):
        training.run_epoch()
    epoch = (time.perf_counter() - begin) / 2
    levels = (0.0, config.target_sparsity)
    begin = time.perf_counter()
    training.evaluate(levels)
    evaluation = time.perf_counter() - begin
    begin = time.perf_counter()
    training.evaluate(config.levels)
    end = time.perf_counter() - begin
    spent = evaluation * (len(config.evaluation_epochs) - 1) + end
    share = spent / (spent + epoch * config.max_epochs)
    return {"evaluations": {"digits, SAM": {"epoch_s": epoch, "rung_s": evaluation, "end_s": end, "share": share}}}


def memory() -> dict:
    """What a process that trains ResNet-18 has to itself, on CIFAR-10's 50,000 images, which Ray keeps once on a node,
    and on a tenth of them: data that were copied would make the difference."""
    import ray

    from benchmarks.gpu import random_images

    environment = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        result = {}
        for name, num in (("a tenth", 5_000), ("all", 50_000)):
            images = random_images(num)
            row = ray.get(ray.remote(Measured).remote().train.remote(ray.put(images)))
            result[name] = {**row, "data_MB": images.images.train_images.nbytes / 1e6}
    finally:
        ray.shutdown()
    return {"memory": result}


class Measured:
    """An actor that says what memory is its own: pages that no other process has."""

    def train(self, data: Any) -> dict[str, float]:
        from benchmarks.gpu import Plain, cifar10_config
        from trainables.loop import Training, load_task

        config = cifar10_config("sgd", "wcr", batch_size=2)
        training = Training(load_task(config, data=data), config)
        Plain(training)(next(training.task.batches("train", 2, seed=0)))
        weights = sum(p.numel() for p in training.model.parameters())
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        private = 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        return {"private_MB": private / 1e6, "model_and_optimizer_MB": 4 * 3 * weights / 1e6}


BENCHMARKS = (start, evaluations, memory, sweeps)
