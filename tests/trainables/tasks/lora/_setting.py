"""What the tests of the LoRA task share: a configuration of seconds."""

import torch

from trainables.config import TrialConfig
from trainables.tasks._question_batches import IGNORED

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIG = {
    "task": "lora",
    "dataset": "commonsense",
    "architecture": "causal_lm",
    "model": {"base": "tiny-qwen2", "vocab_size": 300, "hidden_size": 16, "num_layers": 2, "num_heads": 2},
    "task_args": {"r": 4, "alpha": 8},
    "optimizer": "adamw",
    "opt": {"lr": 1e-2},
    "max_epochs": 2,
    "num_evaluations": 2,
    "batch_size": 16,
    "target_sparsity": 0.3,
    "sparsities": (0.2,),
    "scope": "uniform",
}


def configuration(**fields):
    groups = {name: {**CONFIG[name], **fields.pop(name, {})} for name in ("model", "task_args", "opt")}
    return TrialConfig.model_validate({**CONFIG, **groups, **fields})


def with_factors(model, scale=0.3):
    """Set B to random values: it is 0 at first, and with it the adapters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def texts(task, batch):
    """The tokens and labels of each row of a batch without padding."""
    rows = [row[:length].tolist() for row, length in zip(batch.tokens, batch.lengths, strict=True)]
    return rows, [[label for label in row.tolist() if label != IGNORED] for row in batch.labels]
