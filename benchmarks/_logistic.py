"""Logistic regression on two classes of digits: relaxed masks against an l1 penalty by its subgradient.

The concave paper's sanity check (Fracastoro et al. 2025, arXiv 2501.11135) uses two classes of MNIST; these are the 3s
and 8s of scikit-learn's digits. All methods take the same full-batch gradient steps without momentum, on the mean
logistic loss plus lam R, and scikit-learn solves the l1 problem to its optimum.
"""

import inspect
import itertools
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor

import sparsity

__all__ = ["CHECKPOINTS", "LAMS", "METHODS", "LogisticJob", "logistic_jobs", "objective"]

CLASSES = (3, 8)
LAMS = (1e-3, 3e-3, 1e-2)
CHECKPOINTS = (100, 300, 1000, 3000)  # iterations
WINDOW = 100  # iterations before a checkpoint over which changes of sign are counted
LR = 0.5
TEST_FRACTION = 0.25
OPTIMUM = "l1, optimum"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "l1, subgradient": ("l1", {}),
    "mask, l1": ("concave_mask", {"r": "l1"}),
    "mask, log": ("concave_mask", {"r": "log"}),
}


@dataclass(frozen=True)
class LogisticJob:
    """One method on one random split of the images, from one random initialization."""

    method: str
    lam: float
    seed: int

    @property
    def name(self) -> str:
        return f"logistic/{self.method}/lam={self.lam:g}/seed={self.seed}"

    @property
    def labels(self) -> Mapping[str, Any]:
        return {"ablation": "logistic", "method": self.method, "lam": self.lam, "seed": self.seed}

    @property
    def key(self) -> str:
        return f"{CHECKPOINTS[-1]} iterations, lr {LR:g}"

    def run(self) -> dict[str, Any]:
        """By checkpoint, or once at the optimum: exact zeros and changes of sign (fractions of the weights), test
        accuracy, and the l1 objective."""
        begin = time.process_time()
        data = split(self.seed)
        if self.method == OPTIMUM:
            result: dict[str, Any] = {"at": {"optimum": describe(*optimum(data, self.lam), data, self.lam)}}
        else:
            result = {"at": descend(self.method, data, self.lam, self.seed)}
        return {**result, "cpu_s": round(time.process_time() - begin, 1)}


@dataclass(frozen=True)
class Split:
    """Pixels in [0, 1] less their means over the training images, (n, 64), and labels 0 or 1, (n,); float64."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def split(seed: int) -> Split:
    x, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, CLASSES)
    x, y = x[chosen] / 16, (labels[chosen] == CLASSES[1]).astype(float)
    parts = train_test_split(x, y, test_size=TEST_FRACTION, random_state=seed, stratify=y)
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in parts)
    mean = train_x.mean(0)
    return Split(train_x - mean, train_y, test_x - mean, test_y)


def descend(method: str, data: Split, lam: float, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(data.train_x.shape[1], 1)).double()
    name, arguments = METHODS[method]
    regularizer = sparsity.load("regularizers", name)([model[0].weight], **arguments).double()
    regularizer.attach(model)
    parameters = list(dict.fromkeys([*model.parameters(), *regularizer.parameters()]))
    optimizer = sparsity.load("optimizers", "sgd")(parameters, lr=LR, momentum=0.0)
    found, flips, before = {}, [], model[0].weight.detach().clone()
    for iteration in range(1, CHECKPOINTS[-1] + 1):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(data.train_x).squeeze(1), data.train_y).backward()
        regularizer.backward(lam)
        optimizer.step()
        regularizer.project()
        weight = model[0].weight.detach().clone()
        flips.append((weight * before < 0).double().mean().item())
        before = weight
        if iteration in CHECKPOINTS:
            row = describe(weight[0], model[0].bias.detach(), data, lam)
            found[str(iteration)] = {**row, "flips": rounded(statistics.fmean(flips[-WINDOW:]))}
    return found


def optimum(data: Split, lam: float) -> tuple[Tensor, Tensor]:
    """scikit-learn's minimizer of the mean logistic loss + lam |w|_1, the intercept free."""
    arguments: dict[str, Any] = {"solver": "saga", "C": 1 / (lam * len(data.train_y)), "tol": 1e-7, "max_iter": 100_000}
    arguments["random_state"] = 0  # of the order in which saga visits the images
    if inspect.signature(LogisticRegression).parameters["l1_ratio"].default is None:
        arguments |= {"penalty": "l1"}  # before scikit-learn 1.8, where l1_ratio alone says it
    else:
        arguments |= {"l1_ratio": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not converged
        solved = LogisticRegression(**arguments).fit(data.train_x.numpy(), data.train_y.numpy())
    return torch.from_numpy(solved.coef_[0]), torch.from_numpy(solved.intercept_)


def describe(weight: Tensor, bias: Tensor, data: Split, lam: float) -> dict[str, float]:
    right = ((data.test_x @ weight + bias) > 0) == (data.test_y > 0)
    return {
        "zeros": rounded((weight == 0).double().mean().item()),
        "acc": rounded(right.double().mean().item()),
        "objective": rounded(objective(weight, bias, data, lam)),
    }


def objective(weight: Tensor, bias: Tensor, data: Split, lam: float) -> float:
    """Mean logistic loss on the training images + lam |w|_1."""
    loss = F.binary_cross_entropy_with_logits(data.train_x @ weight + bias, data.train_y)
    return (loss + lam * weight.abs().sum()).item()


def rounded(value: float) -> float:
    return float(f"{value:.6g}")


def logistic_jobs(seeds: Sequence[int]) -> Iterator[LogisticJob]:
    for seed, lam, method in itertools.product(seeds, LAMS, (*METHODS, OPTIMUM)):
        yield LogisticJob(method, lam, seed)
