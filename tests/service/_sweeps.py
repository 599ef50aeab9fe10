"""Sweeps for tests."""

import importlib

from optuna.distributions import CategoricalDistribution as Categorical
from optuna.distributions import FloatDistribution as Float

import sparsity
from search_spaces import SearchSpace, by_optimizer, by_regularizer
from service import Sweep
from trainables.config import TrialConfig

SWEEPS = sparsity.names("sweeps")


def load_sweep(name):
    return importlib.import_module(f"sweeps.{name}").SWEEP


SPACE = {
    "optimizer": Categorical(("sgd", "sam", "s2sam")),
    "regularizer": Categorical(("none", "hoyer_square", "wcr")),
    "lam": by_regularizer(wcr=Float(1e-6, 1e-4, log=True), hoyer_square=Float(1e-5, 1e-3, log=True)),
    "opt/rho": by_optimizer(sam=Float(0.02, 0.5), s2sam=Float(0.02, 0.5)),
}
TUNED = {
    "opt/lr": by_optimizer(**dict.fromkeys(("sgd", "sam"), Float(0.01, 1.0, log=True))),
    "opt/weight_decay": by_optimizer(sgd=Float(1e-4, 1e-1, log=True), sam=Float(1e-3, 1e-1, log=True)),
}


def make(**fields):
    """A sweep of digits; fields of the search space, of the sweep or of its trials' configuration."""
    space = {"ranges": SPACE} | {name: fields.pop(name) for name in SearchSpace.__dataclass_fields__ if name in fields}
    trial = TrialConfig(dataset="digits", architecture="small_resnet", max_epochs=1, target_sparsity=0.96)
    return Sweep(trial=trial, search=SearchSpace(**space)).changed(**fields)
