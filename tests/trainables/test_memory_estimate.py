"""Compare the estimate with the peak memory of a process that trains."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Trains two steps and evaluates. A peak cannot be reset, so each case has its own process.
MEASURE = """
import json, re, sys
from pathlib import Path
import numpy as np
import torch
from trainables.malloc import keep_freed_memory
from trainables.config import TrialConfig
from trainables.data.images import Images
from trainables.data.slices import Slices
from trainables.data.splits import SPLITS
from trainables.tasks.cnn import LoadedImages
from trainables.memory_estimate import PROCESS_BYTES, training_memory
from trainables.loop import Training, load_task


def peak():  # ru_maxrss would start at the parent's peak
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


keep_freed_memory()
torch.set_num_threads(1)
fields, num, size = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
config = TrialConfig.model_validate(fields)
random = np.random.default_rng(0)
images = random.integers(0, 256, (num, 3, size, size), dtype=np.uint8)
if config.task == "unet":
    patients = np.array([f"p{i % 3}" for i in range(num)])
    data = Slices(
        images=images, masks=(images[:, 0] > 200).astype(np.uint8), patients=patients, numbers=np.arange(num),
        mean=np.full((num, 3), 0.5, np.float32), std=np.full((num, 3), 0.3, np.float32),
        split={name: (f"p{i}",) for i, name in enumerate(SPLITS)}, channels=("a", "b", "c"), shown=0,
    )
else:
    labels = random.integers(0, 10, num)
    both = Images(images, labels, images, labels, 10, 255, "crop_flip", 0.5)
    data = LoadedImages(both, [0.5] * 3, [0.3] * 3)
task = load_task(config, data=data)
estimate = training_memory(task, config, task.build_model()) - PROCESS_BYTES
before = peak()
training = Training(task, config)
training.run_epoch()
training.evaluate((0.0, config.target_sparsity))
print(json.dumps([estimate, peak() - before]))
"""
COMMON = {
    "optimizer": "sam",
    "opt": {"lr": 0.01, "rho": 0.1},
    "regularizer": "wcr",
    "lam": 1e-5,
    "max_epochs": 1,
    "target_sparsity": 0.9,
    "seed": 0,
}
UNET = {"task": "unet", "dataset": "lgg", "architecture": "unet", "model": {"encoder": "resnet18"}, "batch_size": 8}
CNN = {"dataset": "cifar10", "architecture": "resnet18", "batch_size": 64}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "num", "size"),
    [(UNET | {"accumulate": 4}, 24, 128), (CNN, 128, 32)],
    ids=["unet in parts", "resnet18"],
)
def test_estimate_is_within_a_factor_of_the_measured_peak(fields, num, size):
    command = [sys.executable, "-c", MEASURE, json.dumps(COMMON | fields), str(num), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    estimate, measured = json.loads(done.stdout)
    print(estimate >> 20, measured >> 20)
    assert measured / 1.6 < estimate < 1.6 * measured
