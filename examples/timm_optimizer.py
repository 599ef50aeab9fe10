"""SAM and a regularizer on a network of timm, with timm's parameter groups.

timm's training script calls `optimizer.step()` without a closure, so SAM needs a loop of your own.
"""

import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay

import sparsity


def train(lam=1e-4, num_steps=4):
    """Train timm's ResNet-18 on random images; return the model, the regularizer and the optimizer."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    R = sparsity.load("regularizers", "wcr")([m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)])
    groups = param_groups_weight_decay(model, weight_decay=5e-4)  # none on biases and normalization layers
    optimizer = sparsity.load("optimizers", "sam")(groups, lr=0.05, rho=0.05, momentum=0.9)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss.detach() + lam * R.backward(lam)

    for _ in range(num_steps):
        optimizer.step(closure)
    return model, R, optimizer


if __name__ == "__main__":
    for lam in (0.0, 1e-4):
        print(f"lam {lam:g}: penalty {train(lam)[1]().item():.0f}")
