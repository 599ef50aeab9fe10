"""A regularizer, SAM and one-shot pruning in a plain PyTorch loop, on scikit-learn's digits."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import sparsity
from sparsity import masks


def train(lam=3e-4, epochs=20):
    """Train a small network, and prune 90% of its weights.

    Returns the network, the penalty before pruning, and the accuracy on the last 397 digits before and after pruning.
    """
    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    weights = [p for p in model.parameters() if p.ndim > 1]  # no biases
    R = sparsity.load("regularizers", "hoyer_square")(weights)
    optimizer = sparsity.load("optimizers", "sam")(model.parameters(), lr=0.1, rho=0.05, momentum=0.9)

    def train_step(x, y):
        def closure():  # SAM calls it at w and at w + e
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss.detach() + lam * R.backward(lam)  # adds lam dR/dw to the gradients, returns R

        return optimizer.step(closure)

    for _ in range(epochs):
        for rows in torch.randperm(1400).split(64):
            train_step(images[rows], labels[rows])

    def accuracy():
        with torch.no_grad():
            return (model(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()

    result = {"model": model, "penalty": R().item(), "dense": accuracy()}
    scores = sparsity.load("criteria", "magnitude")(weights)
    with torch.no_grad():
        for weight, mask in zip(weights, masks.prune(scores, sparsity=0.9), strict=True):
            weight.mul_(mask)
    return {**result, "pruned": accuracy()}


if __name__ == "__main__":
    for lam in (0.0, 3e-4):
        found = train(lam)
        print("lam {}: penalty {penalty:.0f}, accuracy {dense:.3f} dense, {pruned:.3f} pruned".format(lam, **found))
