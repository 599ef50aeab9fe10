"""Every task with tiny data and networks, so that a step takes milliseconds; for tests of all tasks."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import sparsity
from trainables.config import TrialConfig
from trainables.data.slices import Slices

TASK_OF = {  # architecture -> task; "cnn" for the others
    **{"vit": "vit", "unet": "unet", "causal_lm": "lora"},
    **{"timm/vit_tiny_patch16_224": "vit", "smp/unet-resnet18": "unet"},
}
MODELS = {
    "causal_lm": {"base": "tiny-qwen2", "vocab_size": 300, "hidden_size": 16, "num_layers": 1, "num_heads": 2},
    "resnet18": {"width": 2},
    "resnet50": {"width": 4},
    "small_resnet": {"width": 4, "depth": 1},
    "unet": {"encoder": "mobilenet_v2", "decoder_width": 1},
    "vit": {"image_size": 8, "patch_size": 4, "hidden_size": 12, "num_layers": 1, "num_heads": 3, "mlp_size": 20},
    "wide_resnet": {"depth": 10, "widen_factor": 1},
}
DATASETS = {"cnn": "digits", "vit": "digits", "unet": "lgg", "lora": "commonsense"}
TASK_ARGS: dict[str, dict] = {"lora": {"r": 2, "alpha": 4}}


def tiny_config(architecture: str, **fields) -> TrialConfig:
    task = TASK_OF.get(architecture, "cnn")
    given = {
        "task": task,
        "task_args": TASK_ARGS.get(task, {}),
        "dataset": DATASETS[task],
        "architecture": architecture,
        "model": MODELS.get(architecture, {}),
        "train_size": 16,
        "eval_size": 16,
        "opt": {"lr": 0.001},
        "max_epochs": 2,
        "num_evaluations": 2,
        "batch_size": 8,
        "target_sparsity": 0.5,
    }
    return TrialConfig.model_validate(given | fields)


def make_tiny_task(config: TrialConfig, device: str = "cpu"):
    return sparsity.load("trainables.tasks", config.task)(config, _data(config.architecture), device)


@functools.cache
def _data(architecture: str):
    config = tiny_config(architecture)
    if config.task == "unet":
        return _slices()
    load = sparsity.load("trainables.tasks", config.task).load
    if config.task != "lora":
        return load(config)
    with tempfile.TemporaryDirectory() as folder:
        _write_records(Path(folder))
        return load(config, folder)


def _slices() -> Slices:
    """Noisy slices of 32 x 32, sixteen of them for training. A bright square in each is the lesion."""
    patients = np.repeat(list("ABCD"), 8)
    images = np.random.default_rng(0).integers(0, 60, (32, 3, 32, 32), dtype=np.uint8)
    masks = np.zeros((32, 32, 32), np.uint8)
    masks[:, 8:20, 10:22] = 1
    images[:, 1] += 150 * masks
    return Slices(
        images=images,
        masks=masks,
        patients=patients,
        numbers=np.tile(np.arange(1, 9), 4),
        mean=np.full((32, 3), 0.3),
        std=np.full((32, 3), 0.2),
        split={"train": ("A", "B"), "validation": ("C",), "test": ("D",)},
        channels=("one", "bright", "three"),
        shown=1,
        max_value=255,
    )


def _write_records(root: Path) -> None:
    (root / "boolq").mkdir()
    for split, size in (("train", 60), ("test", 10)):
        answers = [("false", "true")[i % 2] for i in range(size)]
        records = [
            {
                "instruction": f"{'a ' * (i % 5)}{('bad', 'good')[i % 2]} one\n\nAnswer format: true/false",
                "input": "",
                "output": f"the correct answer is {answer}",
                "answer": answer,
            }
            for i, answer in enumerate(answers)
        ]
        (root / "boolq" / f"{split}.json").write_text(json.dumps(records))


def equal_states(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(t, states[1][name]) for name, t in states[0].items()
    )


def convolutions(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of all convolutions, by name."""
    return {f"{name}.weight": m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
