"""The methods that prune the networks of a sweep: every criterion with every scope."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import sparsity
from trainables.pruning_method import PruningMethod

__all__ = ["pruning_methods", "without_defaults"]


def pruning_methods(
    criteria: Sequence[str],
    scopes: Sequence[str],
    *,
    arguments: Mapping[str, Any],
    min_kept: int,
    recalibrate: bool,
    prunable: str = "",
) -> list[PruningMethod]:
    """Every criterion with every scope. A criterion gets those of the arguments that it takes."""
    criteria = [sparsity.check("sparsity.criteria", name, "criterion") for name in criteria]
    own = arguments_of(criteria, arguments)
    return [
        PruningMethod(
            criterion=criterion,
            crit=own[criterion],
            scope=scope,
            min_kept=min_kept,
            recalibrate=recalibrate,
            prunable=prunable,
        )
        for criterion in dict.fromkeys(criteria)
        for scope in dict.fromkeys(scopes)
    ]


def arguments_of(criteria: Sequence[str], arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments that each criterion takes. ValueError names one that none of them takes."""
    if not arguments:  # loading a criterion imports torch
        return {name: {} for name in criteria}
    parameters = {name: inspect.signature(sparsity.load("criteria", name)).parameters.values() for name in criteria}
    taken = {name: [p.name for p in own if p.default is not p.empty] for name, own in parameters.items()}
    for argument in arguments:
        if not any(argument in names for names in taken.values()):
            known = "; ".join(f"{name}: {', '.join(names) or '(none)'}" for name, names in taken.items())
            raise ValueError(f"crit: arguments must be among those of the criterion ({known}), got {argument!r}")
    return {name: {key: arguments[key] for key in arguments if key in taken[name]} for name in criteria}


def without_defaults(method: PruningMethod) -> dict[str, Any]:
    """A pruning method as JSON, without the defaults of fields that sweeps of version 0.2 do not have."""
    fields = method.model_dump(mode="json")
    return {name: value for name, value in fields.items() if value or name not in ("prunable", "criterion_source")}
