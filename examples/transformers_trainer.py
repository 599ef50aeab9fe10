"""A regularizer in the Trainer of Hugging Face's transformers.

SAM does not fit: the Trainer computes one gradient and then calls `optimizer.step()` without a closure, so nothing can
ask for the gradient at w + e. S2SAM and CrAM need a closure for the same reason.
"""

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

import sparsity


class AddPenalty(TrainerCallback):
    """Adds lam dR/dw to the gradients of each update.

    The hook runs once per update, however many batches are accumulated, and after the Trainer has clipped the gradients
    of the task. The loss that the Trainer logs is the task's alone. Use bf16, not fp16: with fp16 and no clipping, the
    gradients are still multiplied by the loss scale when this hook runs.
    """

    def __init__(self, regularizer, lam: float):
        self.regularizer, self.lam = regularizer, lam

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.regularizer.backward(self.lam)


def make_model():
    """A tiny ViT for 8x8 images, and its linear weights."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    model = ViTForImageClassification(config)
    return model, [module.weight for module in model.vit.modules() if isinstance(module, torch.nn.Linear)]


def train(lam=1e-3, **arguments):
    """Train on scikit-learn's digits for 30 updates; return the model and its regularizer."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = [
        {"pixel_values": torch.tensor(image / 16, dtype=torch.float32)[None], "labels": int(label)}
        for image, label in zip(digits.images, digits.target, strict=True)
    ]
    model, weights = make_model()
    R = sparsity.load("regularizers", "hoyer_square")(weights)
    settings = {"per_device_train_batch_size": 32, "max_steps": 30, "learning_rate": 1e-2, "seed": 0, **arguments}
    trainer = Trainer(
        model,
        TrainingArguments("trainer_output", use_cpu=True, report_to="none", save_strategy="no", **settings),
        train_dataset=data,
        callbacks=[AddPenalty(R, lam)],
    )
    trainer.train()
    return model, R


if __name__ == "__main__":
    for lam in (0.0, 1e-3):
        print(f"lam {lam:g}: penalty {train(lam, disable_tqdm=True)[1]().item():.1f}")
