"""The arms of a sweep, what is searched for each, and the configuration of a trial."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

import sparsity
from service.spec import SweepSpec
from sparsity.import_strings import short_name
from trainables.config import ARGUMENT_GROUPS, TrialConfig

__all__ = ["Arm", "choose", "is_baseline", "make_arms", "make_config"]


@dataclass(frozen=True)
class Arm:
    """The choices that a table compares, such as an optimizer with a regularizer, and what is searched for them.

    Args:
        choices: "optimizer" -> "sam".
        space: "opt/rho" -> its distribution.
        initial_point: "opt/rho" -> 0.5; the arm's first configuration.
    """

    choices: dict[str, str]
    space: dict[str, BaseDistribution] = field(default_factory=dict)
    initial_point: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " + ".join(map(short_name, self.choices.values()))


def make_arms(spec: SweepSpec) -> list[Arm]:
    """The arms of a sweep, each with the parameters to search.

    Raises:
        ValueError: If a held value or a bound fits no arm, `hold` names a parameter that the sweep does not have, or a
            regularizer has no range for lam.
    """
    arms: list[Arm] = []
    used: set[str] = set()
    bounded: set[str] = set()  # the names of `spec.all_bounds` that an arm has
    parameters = {**spec.search.ranges, **spec.search.tuned, **spec.search.overrides}  # of all arms
    for choices in combinations(spec.search.ranges, {"optimizer": spec.optimizer, "regularizer": spec.regularizer}):
        methods = complete(spec, choices)
        held = held_values(spec, methods)
        used |= set(held)
        ranges = resolve_all(spec.search.ranges, choices)
        initial_point = resolve_all(spec.search.initial_points, choices)
        for name, (distribution, initial) in ranges_of_methods(methods).items():
            if name not in ranges and get_value(spec, methods, name) is None:
                ranges[name], initial_point[name] = distribution, initial
        if methods["regularizer"] != "none" and "lam" not in ranges and "lam" not in held:
            raise ValueError(
                f"lam: must be given, as --lam, for {short_name(methods['regularizer'])} (it has no range; a class may "
                "have one as lam_range, a sparsity.ranges.Range)"
            )
        if spec.tuning == "fair":
            for name, distribution in resolve_all(spec.search.tuned, methods).items():
                ranges[name] = distribution
                value = get_value(spec, methods, name)
                if value is not None:
                    initial_point.setdefault(name, value)
        parameters |= ranges
        for name in list(ranges):
            if entry := bounds_of(spec, methods, name):
                ranges[name] = with_bounds(ranges[name], *spec.all_bounds[entry])
                bounded.add(entry)
        space = {
            name: distribution
            for name, distribution in ranges.items()
            if name not in choices and name not in held and name not in spec.hold
        }
        points = {name: initial_point[name] for name in space if name in initial_point}
        arms.append(Arm(choices, space, {name: into(space[name], value) for name, value in points.items()}))
    names = [arm.name for arm in arms]
    for arm in arms:
        if names.count(arm.name) > 1:
            given = " + ".join(arm.choices.values())
            raise ValueError(
                f"arms: names must differ, got {arm.name} twice (one is {given}): rename a file or a class"
            )
    for name in spec.all_bounds:
        if name not in bounded:
            known = ", ".join(dict.fromkeys(name for arm in arms for name in arm.space))
            raise ValueError(f"range: must be of a parameter that is searched (among {known or '(none)'}), got {name}")
    for name in spec.hold:
        group, _, key = name.partition("/")
        if name not in parameters and key not in getattr(spec.trial, group):
            known = ", ".join(name for name in parameters if "/" in name)
            raise ValueError(
                f"hold: must be a parameter of the search (among {known or '(none)'}) or one that has a value, "
                f"got {name}"
            )
    for name, value in (("lam", spec.lam), ("opt/rho", spec.rho)):
        if value is not None and name not in used:
            tried = ", ".join(arm.name for arm in arms)
            raise ValueError(f"{name.removeprefix('opt/')}: must be held for a method that has it, none of {tried} has")
    return arms


def bounds_of(spec: SweepSpec, methods: Mapping[str, str], name: str) -> str | None:
    """The entry of `spec.all_bounds` for a parameter of these methods: one that names a method comes first."""
    named = [f"{short_name(method)}.{name}" for method in methods.values()]
    return next((entry for entry in (*named, name) if entry in spec.all_bounds), None)


def with_bounds(distribution: BaseDistribution, low: float, high: float) -> BaseDistribution:
    """The distribution between other bounds, on the same scale.

    Raises:
        ValueError: If it has no bounds, or its scale is logarithmic and `low` is 0.
    """
    if isinstance(distribution, IntDistribution):
        return IntDistribution(round(low), round(high), log=distribution.log)
    if not isinstance(distribution, FloatDistribution) or (distribution.log and low == 0):
        raise ValueError(f"range: must be positive for a parameter with a logarithmic scale, got {low:g}:{high:g}")
    return FloatDistribution(low, high, log=distribution.log)


def into(distribution: BaseDistribution, value: float) -> float:
    """The value, moved into a distribution's bounds."""
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return min(max(value, distribution.low), distribution.high)
    return value


def make_config(spec: SweepSpec, choices: Mapping[str, str], params: Mapping[str, Any], **more: Any) -> TrialConfig:
    """The configuration of a trial: the sweep's own values, then its search space's overrides, the arm's choices, the
    held values, and the parameters that the search proposed. The last one that sets a field decides."""
    methods = complete(spec, choices)
    first, *more_pruning = spec.pruning
    fields = spec.trial.model_dump() | dict(first) | {"more_pruning": more_pruning}
    if methods["regularizer"] == "none":
        fields["reg"] = {}
    given = {f"reg/{name}" for name in spec.trial.reg}  # typed by the user, so stronger than the search space's
    overrides = {
        name: value for name, value in resolve_all(spec.search.overrides, methods).items() if name not in given
    }
    for name, value in (overrides | methods | held_values(spec, methods) | dict(params)).items():
        group, _, key = name.rpartition("/")
        (fields[group] if group else fields)[key] = value
    return TrialConfig.model_validate(fields | more)


def choose(spec: SweepSpec, **names: Sequence[str]) -> SweepSpec:
    """The same sweep with other optimizers or regularizers."""
    return type(spec).model_validate({**dict(spec), **{name: tuple(given) for name, given in names.items()}})


def is_baseline(spec: SweepSpec, choices: Mapping[str, str]) -> bool:
    """Whether this arm has no regularizer."""
    return complete(spec, choices)["regularizer"] == "none"


def combinations(ranges: Mapping[str, Any], chosen: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the categorical ranges, or of the `chosen` names in their place.

    A conditional categorical range multiplies only the combinations that have its parent's choice.
    """
    rules = {**ranges, **{name: CategoricalDistribution(tuple(names)) for name, names in chosen.items() if names}}
    found: list[dict[str, str]] = [{}]
    for name, rule in rules.items():  # parents stand before their children
        found = [
            choices if choice is None else {**choices, name: checked(name, str(choice))}
            for choices in found
            for choice in categories(resolve(rule, choices))
        ]
    return found


def checked(name: str, choice: str) -> str:
    """The choice; the path of an import string is absolute."""
    return sparsity.check(f"sparsity.{name}s", choice, name) if name in ("optimizer", "regularizer") else choice


def categories(distribution: Any) -> tuple[Any, ...]:
    return distribution.choices if isinstance(distribution, CategoricalDistribution) else (None,)


def resolve(entry: Any, choices: Mapping[str, str]) -> Any:
    """The value of a conditional entry `{parent: {choice: value}}` for these choices; None where it has none."""
    if not isinstance(entry, Mapping):
        return entry
    ((parent, by_choice),) = entry.items()
    choice = choices.get(parent, "")
    return resolve(by_choice.get(choice, by_choice.get(short_name(choice))), choices)


def resolve_all(entries: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, Any]:
    """`resolve` for each entry, without those that have no value for these choices."""
    resolved = {name: resolve(entry, choices) for name, entry in entries.items() if name not in choices}
    return {name: value for name, value in resolved.items() if value is not None}


def complete(spec: SweepSpec, choices: Mapping[str, str]) -> dict[str, str]:
    """The choices with an optimizer and a regularizer: the overrides', else the sweep's own."""
    brought = {name: resolve(spec.search.overrides.get(name), choices) for name in ("regularizer", "optimizer")}
    own = {"regularizer": spec.trial.regularizer, "optimizer": spec.trial.optimizer}
    return own | {name: value for name, value in brought.items() if value} | dict(choices)


def held_values(spec: SweepSpec, methods: Mapping[str, str]) -> dict[str, float]:
    """The values of --lam and --rho, as far as these methods have them."""
    held = {}
    if spec.lam is not None and methods["regularizer"] != "none":
        held["lam"] = spec.lam
    if spec.rho is not None:
        optimizer = sparsity.load("optimizers", methods["optimizer"])
        if "rho" in inspect.signature(optimizer).parameters:
            held["opt/rho"] = spec.rho
    return held


def ranges_of_methods(methods: Mapping[str, str]) -> dict[str, tuple[FloatDistribution, float]]:
    """The ranges and initial values that the methods' own classes suggest, by parameter name."""
    optimizer = sparsity.load("optimizers", methods["optimizer"])
    regularizer = sparsity.load("regularizers", methods["regularizer"])
    suggested = {f"opt/{name}": range_ for name, range_ in getattr(optimizer, "ranges", {}).items()}
    if lam_range := getattr(regularizer, "lam_range", None):
        suggested["lam"] = lam_range
    return {
        name: (FloatDistribution(range_.low, range_.high, log=range_.log), range_.initial)
        for name, range_ in suggested.items()
    }


def get_value(spec: SweepSpec, methods: Mapping[str, str], name: str) -> Any:
    """The value that a parameter has without a search: an override's, else the sweep's own."""
    override = resolve(spec.search.overrides.get(name), methods)
    if override is not None:
        return override
    group, slash, key = name.partition("/")
    if not slash:
        return None
    assert group in ARGUMENT_GROUPS
    return getattr(spec.trial, group).get(key)
