"""What it costs to prune trained networks in another way, against training them again."""

import tempfile
import time
from pathlib import Path

import torch

from sweeps.digits import SWEEP
from trainables.config import TrialConfig
from trainables.loop import load_task
from trainables.malloc import keep_freed_memory
from trainables.pruning_method import PruningMethod
from trainables.runner import TrialRunner
from trainables.task import Task

__all__ = ["BENCHMARKS"]

METHODS = {
    "magnitude, uniform": PruningMethod(scope="uniform"),
    "snip": PruningMethod(criterion="snip"),
    "compensation": PruningMethod(criterion="compensation"),
}
OPTIMIZERS = {"sgd": {"lr": 0.1}, "sam": {"lr": 0.1, "rho": 0.1}}


def reprune() -> dict:
    """CPU seconds of a digits trial: its training, then each further method at all five sparsities."""
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = {}
    for optimizer, arguments in OPTIMIZERS.items():
        fields = {"optimizer": optimizer, "opt": arguments, "regularizer": "wcr", "lam": 1e-5}
        config = TrialConfig.model_validate(dict(SWEEP.trial) | fields)
        task = load_task(config)
        with tempfile.TemporaryDirectory() as folder:
            training = seconds(config, Path(folder), task)
            rows[f"{optimizer}: training"] = {"cpu_s": training, "ratio": 1.0}
            for count, name in enumerate(METHODS, 1):
                more = config.model_copy(update={"more_pruning": tuple(METHODS.values())[:count]})
                found = seconds(more, Path(folder), task)
                rows[f"{optimizer}: {name}"] = {"cpu_s": found, "ratio": found / training}
    return {"digits": rows}


def seconds(config: TrialConfig, folder: Path, task: Task) -> float:
    """CPU seconds until a trial in this folder has everything that its configuration asks for."""
    runner = TrialRunner(config, folder, lambda: task)
    begin = time.process_time()
    while (report := runner.advance())["status"] == "running":
        pass
    assert report["status"] == "finished", report
    return time.process_time() - begin


BENCHMARKS = (reprune,)
