"""Recorded trainings: three for each task. `python -m tests.test_baselines` records them anew.

A change that is not meant to change what is computed must reproduce them bit for bit. Other processors and other
versions of torch round differently, so there the loss curves are compared with a tolerance.
"""

import hashlib
import json
import platform
from pathlib import Path

import pytest
import torch

from tests.trainables._tiny_tasks import make_tiny_task, tiny_config
from trainables.loop import Training

FILE = Path(__file__).parent / "baselines" / "trainings.json"
ARCHITECTURES = {"cnn": "small_resnet", "vit": "vit", "unet": "unet", "lora": "causal_lm"}
METHODS = {
    "sgd": {"optimizer": "sgd", "opt": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}, "lr_schedule": "cosine"},
    "s2sam_wcr": {"optimizer": "s2sam", "opt": {"lr": 0.05, "rho": 0.1}, "regularizer": "wcr", "lam": 1e-5},
    "sam_adamw_hoyer_square": {
        "optimizer": "sam",
        "opt": {"lr": 0.003, "rho": 0.05, "base": "adamw"},
        "regularizer": "hoyer_square",
        "lam": 1e-6,
        "lr_schedule": "one_cycle",
    },
}
EPOCHS = {"cnn": 6, "vit": 6, "unet": 2, "lora": 4}
CASES = [(task, method) for task in ARCHITECTURES for method in METHODS]


def measure(task: str, method: str) -> dict:
    """Train a tiny network; its loss curve, its metrics by sparsity, and a hash of its trained weights."""
    fields = {**METHODS[method], "train_size": 256, "eval_size": 64, "max_epochs": EPOCHS[task]}
    if task == "lora":
        fields |= {"train_size": 40, "reg": {"eps": 1e-4}} if method == "s2sam_wcr" else {"train_size": 40}
    if task == "unet":
        fields |= {"train_size": 16, "eval_size": 8}
    config = tiny_config(ARCHITECTURES[task], num_evaluations=1, **fields)
    training = Training(make_tiny_task(config), config)
    losses = []
    while not training.finished:
        losses.append(training.run_epoch()["loss"])
    metrics = training.evaluate((0.0, config.target_sparsity)).metrics
    digest = hashlib.sha256()
    for weight in training.trained_model().state_dict().values():
        digest.update(weight.contiguous().numpy().tobytes())
    objective = training.task.objective
    return {
        "loss": losses,
        "dense": metrics[0.0][objective],
        "pruned": metrics[config.target_sparsity][objective],
        "weights": digest.hexdigest(),
    }


def machine() -> str:
    """What decides how floating-point sums are rounded."""
    lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    cpu = ", ".join(f"{name} {fields.get(name)}" for name in ("model name", "cpu family", "model", "stepping"))
    return f"torch {torch.__version__}, {platform.machine()}, {cpu}, {torch.backends.cpu.get_cpu_capability()}"


@pytest.fixture(autouse=True)
def one_thread():
    """The recorded trainings used one thread, and the number of threads decides the order of sums."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(("task", "method"), CASES)
def test_a_training_is_the_recorded_one(task, method):
    recorded = json.loads(FILE.read_text())
    expected, found = recorded["trainings"][f"{task}/{method}"], measure(task, method)
    if recorded["machine"] == machine():
        assert found == expected
    else:
        assert found["loss"] == pytest.approx(expected["loss"], rel=0.2)


def test_the_recorded_trainings_learn():
    recorded = json.loads(FILE.read_text())["trainings"]
    assert all(training["loss"][-1] < training["loss"][0] for training in recorded.values())


def main() -> None:
    torch.set_num_threads(1)
    trainings = {f"{task}/{method}": measure(task, method) for task, method in CASES}
    FILE.write_text(json.dumps({"machine": machine(), "trainings": trainings}, indent=1) + "\n")


if __name__ == "__main__":
    main()
