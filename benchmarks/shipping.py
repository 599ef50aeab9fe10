"""`python -m benchmarks.shipping`: how fast a long sweep's event log gets into MLflow, and what it costs the driver.

The event log of 1,000 trials with 200 metric points each is shipped to SQLite, and to a server over PostgreSQL. Each
shipper runs in a process of its own, whose memory is sampled. Afterwards the runs and points in MLflow are counted.
--figures adds the files of a real trial: the pruned checkpoint and layers.json.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._measure import RESULTS, device_name, slug
from benchmarks._servers import MlflowServer, postgresql

__all__ = ["write_events"]

LEVELS = (0.0, 0.9, 0.94, 0.96, 0.98)
RUNNING = 8  # trials whose lines alternate in the event log, as of a sweep that runs so many at once
CHECKPOINT_BYTES = 250_000  # about the digits network's


def write_events(folder: Path, *, num_trials: int, num_points: int, figures: bool) -> int:
    """A sweep of finished trials, written by `Recorder`; returns the number of metric points in it."""
    from service.records.recorder import Recorder
    from sweeps.digits import SWEEP
    from trainables.config import TrialConfig
    from trainables.pruning_method import PruningMethod

    rng = np.random.default_rng(0)
    layers = [
        {"name": f"layer{i}.weight", "num_weights": 1000, "num_kept": 40, "histogram": rng.integers(1, 99, 60).tolist()}
        for i in range(20)
    ]
    records = Recorder(folder)
    records.sweep_begun(SWEEP.identity(), data="made up")
    method = PruningMethod()
    # lam, log10_lam, rho; the last report; loss_gap; two metrics by sparsity; the curve with its sparsities
    num_at_end = 3 + 6 + 1 + 2 * len(LEVELS) + 2 * len(LEVELS)
    num_evaluations, rest = divmod(num_points - num_at_end, 6)
    written = 0

    def report(epoch: int) -> dict[str, Any]:
        loss, dense, pruned = (float(x) for x in rng.uniform(0, 1, 3))
        terms = {"loss": loss, "penalty": 3.0, "lr": 0.1, "acc_dense": dense, "acc_pruned": pruned}
        return {"epoch": epoch, "seconds": 1.5 * epoch, **terms}

    for first in range(0, num_trials, RUNNING):
        keys = {}
        for number in range(first, min(first + RUNNING, num_trials)):
            config = TrialConfig(
                dataset="digits",
                architecture="small_resnet",
                optimizer="sam",
                opt={"lr": 0.1, "weight_decay": 3e-2, "rho": 0.1},
                regularizer="wcr",
                lam=1e-6 * (number + 1),
                max_epochs=num_evaluations + 1,
                batch_size=64,
                target_sparsity=0.96,
            )
            values = config.model_dump(mode="json")
            records.trial_started(config.key, phase="search", arm="sam + wcr", number=number, config=values)
            keys[config.key] = values
        for epoch in range(1, num_evaluations + 1):
            for key in keys:
                records.trial_evaluated(key, report(epoch))
        for key, config in keys.items():
            trial = records.state.trial_folder(key)
            trial.mkdir(parents=True)
            curve = [{"sparsity": s, "acc": float(rng.uniform()), "f1": float(rng.uniform())} for s in LEVELS]
            result = {
                "report": report(num_evaluations + 1) | {"status": "finished", "reason": ""},
                "notes": [],
                "config": config,
                "objective": "acc",
                "pruned": [
                    {"label": method.label, "method": method.model_dump(mode="json"), "curve": curve, "test": None}
                ],
                "diagnostics": {"loss_gap": 0.5} | {f"more_{i}": 0.5 for i in range(rest)},
                "layers": layers,
            }
            (trial / "result.json").write_text(json.dumps(result))
            records.trial_ended(key)
            written += num_at_end + 6 * num_evaluations + rest
            if figures:
                pruned = trial / "pruned" / "0.96"
                pruned.mkdir(parents=True)
                (pruned / "model.safetensors").write_bytes(rng.bytes(CHECKPOINT_BYTES))
                (pruned / "config.json").write_text(json.dumps(config))
            else:
                shutil.rmtree(trial)
    records.close()
    return written


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ship(folder: Path, uri: str) -> None:
    """What the driver of a sweep does, in this process: prints seconds, CPU seconds, and its memory on the way."""
    from mlflow import MlflowClient

    from service.tracking.shipper import Shipper

    MlflowClient(uri).search_experiments(max_results=1)  # the database is set up; mlflow is imported
    memory = [resident_bytes()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.2):
            memory.append(resident_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    begin, cpu = time.perf_counter(), time.process_time()
    shipper = Shipper(folder, uri)
    shipper.start()
    left = shipper.finish(timeout=3600)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    done.set()
    sampler.join()
    if left:
        raise RuntimeError(f"{left} entries are not sent: {shipper.failure}")
    tenth = max(1, len(memory) // 10)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_s": cpu_seconds,
                "start_mb": memory[0] / 1e6,
                "first_tenth_mb": max(memory[:tenth]) / 1e6,
                "end_mb": max(memory[-tenth:]) / 1e6,
                "most_mb": max(memory) / 1e6,
            }
        )
    )


def count(database: str) -> tuple[int, int, int]:
    """(runs, metric points, of these at a (run, metric, step) that another one has too) in a tracking database."""
    import sqlalchemy

    queries = (
        "select count(*) from runs",
        "select count(*) from metrics",
        "select count(*) - (select count(*) from (select distinct run_uuid, key, step from metrics) d) from metrics",
    )
    engine = sqlalchemy.create_engine(database)
    with engine.connect() as connection:
        runs, points, doubled = (connection.execute(sqlalchemy.text(query)).scalar_one() for query in queries)
    engine.dispose()
    return runs, points, doubled


def measure(name: str, folder: Path, uri: str, database: str, num_trials: int, num_points: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.shipping", "--ship", str(folder), uri]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    found, expected = count(database), (num_trials + 1, num_points, 0)
    if found != expected:
        raise RuntimeError(f"{name}: must have (runs, points, doubled) = {expected}, has {found}")
    return {
        "trials": num_trials,
        "points": num_points,
        **measured,
        "points_per_s": num_points / measured["seconds"],
        "growth_mb": measured["end_mb"] - measured["first_tenth_mb"],
    }


def run(num_trials: int, points_per_trial: int, figures: bool, given: str) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="shipping-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary) / "runs" / "long"
        begin = time.perf_counter()
        points = write_events(folder, num_trials=num_trials, num_points=points_per_trial, figures=figures)
        size = (folder / "events.jsonl").stat().st_size
        print(
            f"event log: {num_trials} trials, {points} points, {size / 1e6:.0f} MB, {time.perf_counter() - begin:.0f} s"
        )
        sqlite = f"sqlite:///{folder.parent / 'mlflow.db'}"
        found["SQLite"] = measure("SQLite", folder, sqlite, sqlite, num_trials, points)
        database = given or stack.enter_context(postgresql())
        if database and importlib.util.find_spec("psycopg"):
            server = MlflowServer(Path(temporary), database)
            stack.callback(server.stop)
            server.start()
            name = "server over PostgreSQL"
            found[name] = measure(name, folder, server.uri, database, num_trials, points)
        else:
            print(f"left out: a server over PostgreSQL, as {'psycopg' if database else 'PostgreSQL'} is not installed")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--points", type=int, default=200, help="metric points of each trial")
    parser.add_argument("--figures", action="store_true", help="with the trials' artifacts")
    parser.add_argument("--postgresql", default="", metavar="URI", help="an empty database, instead of one of its own")
    parser.add_argument("--ship", nargs=2, metavar=("FOLDER", "URI"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ship:
        ship(Path(args.ship[0]), args.ship[1])
        return
    found = run(args.trials, args.points, args.figures, args.postgresql)
    for name, measured in found.items():
        print(name, {key: round(value, 1) for key, value in measured.items()})
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}-{slug(device_name())}.json"
    record: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "device": device_name(), "torch": torch.__version__}
    record["results"] = {}
    if path.exists():
        record = json.loads(path.read_text())
    record["results"][f"shipping/{'with' if args.figures else 'without'} figures and checkpoints"] = found
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
