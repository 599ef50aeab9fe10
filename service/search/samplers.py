"""What proposes a configuration: points of a Halton sequence, and Optuna's samplers for one arm's parameters."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import GPSampler, PartialFixedSampler, TPESampler
from optuna.trial import TrialState
from scipy.stats import qmc

__all__ = ["ArmGP", "ArmTPE", "clip", "from_unit", "halton_point", "sample"]


class SameParameters:
    """For samplers of studies whose trials all have the same parameters, so that the space need not be inferred.

    Args:
        space: The parameters to sample jointly; empty if there are no results to learn from.
        more: Arguments of the sampler.
    """

    def __init__(self, space: Mapping[str, BaseDistribution], **more: Any):
        super().__init__(**more)
        self._space = {name: space[name] for name in sorted(space) if not space[name].single()}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._space)


class ArmTPE(SameParameters, TPESampler):
    """TPE over all parameters jointly."""


class ArmGP(SameParameters, GPSampler):
    """Expected improvement of a Gaussian process with noise; running trials count as such."""


def sample(
    study: optuna.Study, space: Mapping[str, BaseDistribution], given: Mapping[str, Any], *, sampler: str, seed: int
) -> dict[str, Any]:
    """Parameters that the sampler proposes after the results of a study, in which it leaves a failed trial.

    Args:
        study: Its trials have all parameters of the space.
        space: The parameters to propose.
        given: Parameters that are held.
        sampler: "tpe" or "gp".
        seed: The same study, space and seed give the same parameters.
    """
    jointly = space if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made = (
            ArmGP(jointly, seed=seed, n_startup_trials=0, warn_independent_sampling=False)
            if sampler == "gp"
            else ArmTPE(jointly, seed=seed, n_startup_trials=0, multivariate=True)
        )
        study.sampler = PartialFixedSampler(dict(given), made)
        trial = study.ask(dict(space))
    study.tell(trial, state=TrialState.FAIL)  # samplers ignore failed trials: the next proposal does not see it
    return trial.params


def halton_point(space: Mapping[str, BaseDistribution], number: int, *, seed: int) -> dict[str, Any]:
    """Point `number` of a scrambled Halton sequence over a space, each parameter on its own scale."""
    if not space:
        return {}
    point = qmc.Halton(len(space), rng=np.random.default_rng(seed)).fast_forward(number).random(1)[0]
    return {name: from_unit(u, dist) for u, (name, dist) in zip(point, space.items(), strict=True)}


def clip(point: Mapping[str, float], space: Mapping[str, BaseDistribution]) -> dict[str, float]:
    """A point from elsewhere, moved into the ranges of this space."""
    ranges = {name: d for name, d in space.items() if isinstance(d, FloatDistribution | IntDistribution)}
    return {name: min(max(point[name], d.low), d.high) for name, d in ranges.items() if name in point}


def from_unit(u: float, dist: BaseDistribution) -> Any:
    """The value at the fraction `u` of a range, on the range's own scale."""
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[min(int(u * len(dist.choices)), len(dist.choices) - 1)]
    assert isinstance(dist, FloatDistribution | IntDistribution)
    value = dist.low * (dist.high / dist.low) ** u if dist.log else dist.low + u * (dist.high - dist.low)
    value = min(max(value, dist.low), dist.high)
    return round(value) if isinstance(dist, IntDistribution) else float(value)
