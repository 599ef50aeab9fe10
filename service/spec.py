"""A sweep as one frozen, validated value: what is trained, what is searched, with which budget, and where."""

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

import sparsity
from search_spaces import SearchSpace
from service.process import default_runs
from service.pruning_methods import pruning_methods, without_defaults
from service.range_file import read_range
from sparsity.import_strings import is_import_string, short_name, source_of
from sparsity.registry import name_of
from trainables.config import ARGUMENT_GROUPS, Lam, TrialConfig
from trainables.paths import expanded
from trainables.pruning_method import PruningMethod

__all__ = ["SweepSpec", "recorded_sources"]

PRUNING_FIELDS = {*PruningMethod.model_fields, "more_pruning"}
NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
NOT_NAMES = (".", "..", "mlartifacts")  # in --runs; MLflow keeps its files in the last


class SweepSpec(BaseModel):
    """What a sweep is. `service.Sweep` adds `run()` and the command line.

    An arm is an optimizer with a regularizer. Each arm has the same budget. In Python, classes and functions can stand
    for the names in `optimizer`, `regularizer` and `criterion`, and one alone for a tuple of one.

    Args:
        trial: What all trials have in common. The search replaces the optimizer, the regularizer and their parameters.
        search: The ranges, a value of `search_spaces/`.

    Raises:
        ValueError: pydantic's, one line for each fault.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    trial: TrialConfig
    search: SearchSpace

    name: str = Field(
        default_factory=lambda fields: folder_name(fields["trial"].dataset) if "trial" in fields else "",
        description="folder in --runs, and experiment in MLflow; default: the dataset",
    )
    optimizer: tuple[str, ...] = Field(
        default=(), description="search with this optimizer; default: all of the search space"
    )
    regularizer: tuple[str, ...] = Field(
        default=(), description="search with this regularizer; default: all of the search space"
    )
    tuning: Literal["fair", "paper"] = Field(
        default="fair",
        description="fair: search lr and weight decay of every arm, baselines included; paper: keep --opt's values",
    )
    hold: tuple[str, ...] = Field(
        default=(), description="do not search this parameter but keep its value, e.g. opt/lr; --opt lr=0.05 implies it"
    )
    criterion: tuple[str, ...] = Field(
        default_factory=lambda fields: (fields["trial"].criterion,) if "trial" in fields else (),
        description="what ranks weights for pruning; give several to compare them on the same trained networks: the "
        "first decides the objective",
    )
    scope: tuple[str, ...] = Field(
        default_factory=lambda fields: (fields["trial"].scope,) if "trial" in fields else (),
        description="weights ranked together: global, uniform (per tensor), row (per output row), or N:M like 2:4; "
        "give several to compare them on the same trained networks: the first decides the objective",
    )
    objective: Literal["target", "area"] = Field(
        default="target",
        description="maximize the accuracy at the target sparsity (target), or the mean accuracy over the log density "
        "of all sparsities (area)",
    )
    max_dense_drop: float | None = Field(
        default=None,
        ge=0,
        description="how far the accuracy before pruning may lie below the best one; an arm without such a "
        "configuration is represented by the one with the smallest drop, which cannot win",
    )
    max_macs_left: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="fraction of the dense network's operations (MACs) that may be left after pruning to the target "
        "sparsity and shrinking; an arm without such a configuration is represented by its smallest one, which cannot "
        "win",
    )
    lam: Lam | None = Field(default=None, description="strength of the penalty, instead of searching it")
    rho: float | None = Field(
        default=None,
        description="radius of SAM, S2SAM, Friendly-SAM, SAFE and CrAM (units of w), instead of searching it",
    )
    bounds: dict[str, tuple[float, float]] = Field(
        default={},
        description="search between these bounds instead of the search space's, e.g. lam=1e-7:1e-3 or opt/rho=0.01:1; "
        "METHOD.NAME=LOW:HIGH applies to one optimizer or regularizer, e.g. wcr.lam=1e-7:1e-3",
    )
    range_from: tuple[Path, ...] = Field(
        default=(), description="search lam in the range that `sweeps range` wrote to this file; --range overrides it"
    )
    reuse_best: bool = Field(
        default=False,
        description="start from the best values of the nearest settings that other sweeps recorded or papers state",
    )
    adopt: tuple[str, ...] = Field(
        default=(),
        description="name of another sweep in --runs: reuse its trials that fit instead of training them again",
    )

    num_trials: int = Field(default=6, ge=1, description="configurations searched for each arm")
    num_search_seeds: int = Field(
        default=1, ge=1, description="seeds of each configuration in the search, which maximizes the mean over them"
    )
    num_finalists: int = Field(
        default=1,
        ge=1,
        description="best configurations of each arm that are trained on further seeds before one of them is "
        "selected; 1: no further seeds",
    )
    num_finalist_seeds: int = Field(default=2, ge=1, description="further seeds of each of several finalists")
    sampler: Literal["tpe", "gp"] = Field(
        default="gp",
        description="what proposes an arm's configurations after the first four: a Gaussian process (gp), followed by "
        "TPE after 50 results, or TPE from the start (tpe), which takes less time for a proposal",
    )
    num_confirm: int | None = Field(
        default=None,
        ge=0,
        description="confirm the best N arms, and every arm without a regularizer, on unseen seeds; 0: no "
        "confirmation; default: all arms",
    )
    num_seeds: int = Field(default=5, ge=1, description="unseen seeds of each confirmed arm; with --race, on average")
    race: bool = Field(
        default=True,
        description="stop confirming clearly beaten arms and give their seeds to the others, up to twice --seeds each",
    )

    runs: Path = Field(
        default_factory=default_runs, description="folder of all records; default: $SPARSITY_SWEEPS_RUNS, else runs"
    )
    data_root: Path | None = Field(default=None, description="folder of the dataset; default: download it if possible")
    cpus_per_trial: float = Field(default=1, gt=0, description="CPUs, and threads, of a trial")
    gpus_per_trial: float | None = Field(
        default=None, description="GPUs of a trial: 0 or a fraction in (0, 1]; default: 1 if there are any"
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, description="trials that run at once; default: as many as fit"
    )
    keep: Literal["target", "all", "pruned", "none"] = Field(
        default="target",
        description="networks to keep. target: the trained one and the one pruned to the target sparsity; all: the "
        "trained one and all pruned ones; pruned: only the one pruned to the target; none. reprune needs the trained "
        "one",
    )
    sizes: bool = Field(
        default=True,
        description="record the size of each pruned network after shrinking (macs, macs_left, parameters): about 4 s "
        "once for each worker process",
    )
    export: bool = Field(
        default=True, description="at the end, export the winner as ONNX and register it in MLflow as a servable model"
    )
    tracking_uri: str = Field(
        default="", description="MLflow server; default: $MLFLOW_TRACKING_URI, else a database in --runs"
    )
    study_uri: str = Field(
        default="", description="Optuna storage such as postgresql://...; default: a file of the sweep"
    )

    _ranges: dict[str, tuple[float, float]] = PrivateAttr(default_factory=dict)  # those of `range_from`, read once

    @field_validator("optimizer", "regularizer", "criterion", mode="before")
    @classmethod
    def _names_of_objects(cls, given: Any, info: Any) -> Any:
        """Take a class or function for its name, and a single one for a tuple."""
        kind = {"criterion": "criteria"}.get(info.field_name, f"{info.field_name}s")
        several = given if isinstance(given, list | tuple) else (given,)
        return tuple(name_of(kind, each, info.field_name) for each in several)

    @field_validator("optimizer", "regularizer")
    @classmethod
    def _names_of_methods(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        checked = [sparsity.check(f"sparsity.{info.field_name}s", name, info.field_name) for name in names]
        return tuple(dict.fromkeys(checked))  # an arm given twice is one

    @field_validator("criterion")
    @classmethod
    def _names_of_criteria(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(sparsity.check("sparsity.criteria", name, "criterion") for name in names))

    @field_validator("hold")
    @classmethod
    def _names_of_parameters(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            group, _, key = name.partition("/")
            if group not in ARGUMENT_GROUPS or not key:
                groups = ", ".join(ARGUMENT_GROUPS)
                raise ValueError(f"hold: must be GROUP/KEY with GROUP among {groups} (such as opt/lr), got {name!r}")
        return tuple(dict.fromkeys(names))

    @field_validator("bounds", mode="before")
    @classmethod
    def _bounds_as_typed(cls, given: Any) -> Any:
        """Read NAME=LOW:HIGH, as the command line has them."""
        if not isinstance(given, list | tuple):
            return given
        found = {}
        for text in given:
            name, equals, bounds = text.partition("=")
            try:
                low, high = map(float, bounds.split(":"))
            except ValueError:
                equals = ""
            if not (name and equals and 0 <= low < high < float("inf")):
                raise ValueError(f"range: must be NAME=LOW:HIGH with 0 <= LOW < HIGH, got {text!r}")
            found[name] = (low, high)
        return found

    @field_validator("rho")
    @classmethod
    def _rho_is_a_radius(cls, rho: float | None) -> float | None:
        if rho is not None and not 0 <= rho < float("inf"):
            raise ValueError(f"rho: must be >= 0 and finite (it is a radius), got {rho:g}")
        return rho

    @field_validator("gpus_per_trial")
    @classmethod
    def _at_most_one_gpu(cls, gpus: float | None) -> float | None:
        if gpus is not None and not 0 <= gpus <= 1:
            raise ValueError(
                "gpus: must be 0 or a fraction in (0, 1] (a trial trains on one GPU, no task can use more; several "
                f"GPUs run several trials at once), got {gpus:g}"
            )
        return gpus

    @field_validator("data_root")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        return path and expanded(path, "data_root")

    @field_validator("trial")
    @classmethod
    def _a_template(cls, trial: TrialConfig) -> TrialConfig:
        if trial.lam:
            raise ValueError(f"trial: lam must be left out (give it as the sweep's lam to hold it), got {trial.lam:g}")
        if trial.read_test:
            raise ValueError("trial: read_test must be off (only the confirmation reads the test split), got on")
        return trial

    @field_validator("study_uri")
    @classmethod
    def _url_of_a_database(cls, uri: str) -> str:
        if uri and "://" not in uri:
            raise ValueError(f"study_uri: must be a URL such as postgresql://USER@HOST/DATABASE, got {uri!r}")
        return uri

    @field_validator("name")
    @classmethod
    def _name_of_a_folder(cls, name: str) -> str:
        if not name or set(name) - NAME_CHARACTERS:
            raise ValueError(f"name: must be letters, digits, '_', '.', '-' (it names a folder), got {name!r}")
        if name in NOT_NAMES:
            raise ValueError(f"name: must be none of {', '.join(NOT_NAMES)} (other things are there), got {name!r}")
        return name

    @model_validator(mode="after")
    def _read_ranges(self) -> "SweepSpec":
        self._ranges = {f"{name}.lam": bounds for name, bounds in map(read_range, self.range_from)}
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> "SweepSpec":
        first, *more = self.pruning  # each is checked when it is made
        TrialConfig.model_validate({**dict(self.trial), **dict(first), "more_pruning": more})
        if self.objective == "area" and len(self.trial.levels) < 3:
            raise ValueError(
                "objective: must have two sparsities or more above 0 for an area (give --sparsity), got "
                f"{', '.join(f'{level:g}' for level in self.trial.levels[1:])}"
            )
        return self

    @model_validator(mode="after")
    def _limit_is_measured(self) -> "SweepSpec":
        if self.max_macs_left is not None and not self.sizes:
            raise ValueError("sizes: must be on with max_macs_left (it limits the size after shrinking), got off")
        return self

    @property
    def all_bounds(self) -> dict[str, tuple[float, float]]:
        """`bounds` with the ranges of `range_from`, which `bounds` overrides."""
        return {**(self._ranges if "lam" not in self.bounds else {}), **self.bounds}

    @property
    def pruning(self) -> tuple[PruningMethod, ...]:
        """The methods that prune each trained network: every criterion with every scope.

        A criterion gets those arguments of `crit` that it takes.

        Raises:
            ValueError: If an argument is taken by none of the criteria, or a scope is unknown.
        """
        trial = self.trial
        methods = pruning_methods(
            self.criterion,
            self.scope,
            arguments=trial.crit,
            min_kept=trial.min_kept,
            recalibrate=trial.recalibrate,
            prunable=trial.prunable,
        )
        return tuple({method.label: method for method in (*methods, *trial.more_pruning)}.values())

    @property
    def folder(self) -> Path:
        """The folder of the sweep's records."""
        return expanded(self.runs, "runs").resolve() / self.name

    def changed(self, **fields: Any) -> Self:
        """The sweep with other values, validated.

        Args:
            fields: Of the sweep, or else of its trials' configuration, as on the command line.

        Raises:
            ValueError: If a field is unknown or a value is not possible.
        """
        known = {*type(self).model_fields, *TrialConfig.model_fields}
        for name in fields.keys() - known:
            close = difflib.get_close_matches(name, known, n=3) or ["num_trials", "max_epochs"]
            raise ValueError(
                f"changed: must be a field of the sweep or its trials, such as {', '.join(close)}, got {name!r}"
            )
        own = {name: getattr(self, name) for name in self.model_fields_set}
        trial = {name: fields.pop(name) for name in list(fields) if name not in type(self).model_fields}
        if trial:
            template = dict(fields.get("trial", self.trial))
            fields["trial"] = TrialConfig.model_validate({**template, **trial})
        return type(self)(**{**own, **fields})

    @property
    def first_unseen_seed(self) -> int:
        """The confirmation's first seed: it follows those of the search and of the finalists."""
        further = self.num_finalist_seeds if self.num_finalists > 1 else 0
        return self.trial.seed + self.num_search_seeds + further

    def identity(self) -> dict[str, Any]:
        """What decides which recorded trials belong to the sweep, as JSON values.

        If it changes, `service.search.adoption` decides which trials still fit. The rest changes freely: the budget
        except the seeds that select configurations, and where data and records are.
        """
        search = {name: as_json(getattr(self.search, name)) for name in SearchSpace.__dataclass_fields__}
        trial = self.trial.model_dump(mode="json", exclude={"lam", "read_test", "sources", *PRUNING_FIELDS})
        if sources := self.sources():
            trial["sources"] = sources
        identity: dict[str, Any] = {
            "trial": trial,
            "pruning": [without_defaults(method) for method in self.pruning],
            "objective": self.objective,
            "max_dense_drop": self.max_dense_drop,
            "search": search,
            "optimizer": self.optimizer,
            "regularizer": self.regularizer,
            "tuning": self.tuning,
            "hold": self.hold,
            "bounds": self.all_bounds,
            "lam": self.lam,
            "rho": self.rho,
            "num_search_seeds": self.num_search_seeds,
        }
        # Sweeps that began before these existed lack them.
        if self.max_macs_left is not None:
            identity["max_macs_left"] = self.max_macs_left
        if self.sampler != "tpe":
            identity["sampler"] = self.sampler
        if self.num_finalists > 1:
            identity |= {"num_finalists": self.num_finalists, "num_finalist_seeds": self.num_finalist_seeds}
        return json.loads(json.dumps(identity))

    def sources(self) -> dict[str, str]:
        """The digest of the source of each import string with which the sweep trains."""
        arms = [name for name in (*self.optimizer, *self.regularizer) if is_import_string(name)]
        return {**self.trial.sources, **{name: source_of(name, "sweep").digest for name in arms}}

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any], **more: Any) -> "SweepSpec":
        """The sweep that has this identity.

        Args:
            more: Fields that are not part of it, such as `name`, `runs` and `data_root`.
        """
        fields = {"sampler": "tpe", **identity}
        search = SearchSpace(**{name: from_json(entry) for name, entry in fields.pop("search").items()})
        first, *others = fields.pop("pruning")
        trial = TrialConfig.model_validate({**fields.pop("trial"), **first, "more_pruning": others})
        return cls(trial=trial, search=search, **fields, **more)


def recorded_sources(identity: Mapping[str, Any]) -> dict[str, str]:
    """The digest of each import string of a recorded sweep."""
    criteria = {method["criterion"]: method.get("criterion_source", "") for method in identity["pruning"]}
    return {**identity["trial"].get("sources", {}), **{name: digest for name, digest in criteria.items() if digest}}


def folder_name(dataset: str) -> str:
    """The dataset as the name of a sweep: "data.load" for an import string."""
    return re.sub(r"[^\w.-]", ".", short_name(dataset))


def from_json(entry: Any) -> Any:
    """The entry of a search space whose `as_json` this is."""
    if isinstance(entry, Mapping) and entry.keys() == {"name", "attributes"}:
        return json_to_distribution(json.dumps(entry))
    if isinstance(entry, Mapping):
        return {name: from_json(value) for name, value in entry.items()}
    return entry


def as_json(entry: Any) -> Any:
    """An entry of a search space as JSON; distributions in Optuna's own form."""
    if isinstance(entry, Mapping):
        return {name: as_json(value) for name, value in entry.items()}
    if isinstance(entry, BaseDistribution):
        return json.loads(distribution_to_json(entry))
    return entry
