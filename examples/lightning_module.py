"""A regularizer and SAM in PyTorch Lightning, with automatic optimization."""

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn

import sparsity


class SparseModule(L.LightningModule):
    """A classifier trained with lam R(w) and SAM. Clipping by norm and precision="bf16-mixed" work as usual."""

    def __init__(self, model: nn.Module, lam: float = 1e-3, rho: float = 0.05, lr: float = 0.1):
        super().__init__()
        self.model, self.lam, self.rho, self.lr = model, lam, rho, lr
        self.R = sparsity.load("regularizers", "hoyer_square")([p for p in model.parameters() if p.ndim > 1])

    def configure_optimizers(self):
        # Of an accumulated batch, Lightning repeats only the last part for SAM's second gradient.
        if self.rho and self.trainer.accumulate_grad_batches > 1:
            raise ValueError(f"accumulate_grad_batches must be 1 with SAM, got {self.trainer.accumulate_grad_batches}")
        return sparsity.load("optimizers", "sam")(self.model.parameters(), lr=self.lr, rho=self.rho, momentum=0.9)

    def training_step(self, batch, _):
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def on_before_optimizer_step(self, optimizer):
        """Add lam dR/dw to the gradients: once for each gradient that SAM takes, before they are clipped."""
        self.log("penalty", self.R.backward(self.lam))


def train(lam=1e-3, **trainer_arguments):
    """Train on scikit-learn's digits for three epochs."""
    from sklearn.datasets import load_digits

    L.seed_everything(0, verbose=False)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    module = SparseModule(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), lam=lam)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=64, shuffle=True)
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_arguments,
    )
    trainer.fit(module, data)
    return module


if __name__ == "__main__":
    for lam in (0.0, 1e-3):
        print(f"lam {lam:g}: penalty {train(lam, gradient_clip_val=1.0).R().item():.1f}")
