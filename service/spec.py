"""A sweep as one frozen, validated value: what is trained, what is searched, with which budget, and where."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import BaseDistribution, distribution_to_json
from pydantic import BaseModel, ConfigDict, Field, field_validator

from search_spaces import SearchSpace
from service.process import default_runs
from trainables.config import ARGUMENT_GROUPS, Lam, TrialConfig, check_name, expanded

__all__ = ["SweepSpec"]

NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class SweepSpec(BaseModel):
    """What a sweep is. `service.Sweep` adds `run()` and the command line.

    An arm is an optimizer with a regularizer. Each arm has the same budget.

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
        default_factory=lambda fields: fields["trial"].dataset if "trial" in fields else "",
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
    lam: Lam | None = Field(default=None, description="strength of the penalty, instead of searching it")
    rho: float | None = Field(
        default=None, description="radius of SAM, S2SAM and CrAM (units of w), instead of searching it"
    )
    reuse_best: bool = Field(default=False, description="start from the best values recorded for this architecture")

    num_trials: int = Field(default=6, ge=1, description="configurations searched for each arm")
    num_search_seeds: int = Field(
        default=1, ge=1, description="seeds of each configuration in the search, which maximizes the mean over them"
    )
    num_confirm: int | None = Field(
        default=None,
        ge=0,
        description="confirm only this many arms, and every baseline, on unseen seeds; default: all arms",
    )
    num_seeds: int = Field(default=5, ge=1, description="unseen seeds of each confirmed arm; with --race, on average")
    race: bool = Field(
        default=True, description="give the seeds of clearly beaten arms to the contenders, each up to twice --seeds"
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
    keep: Literal["target", "all", "none"] = Field(
        default="target", description="pruned checkpoints to keep: of the target sparsity, of all sparsities, or none"
    )
    tracking_uri: str = Field(
        default="", description="MLflow server; default: $MLFLOW_TRACKING_URI, else a database in --runs"
    )
    study_uri: str = Field(
        default="", description="Optuna storage such as postgresql://...; default: a file of the sweep"
    )

    @field_validator("optimizer", "regularizer")
    @classmethod
    def _names_of_methods(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for name in names:
            check_name(f"sparsity.{info.field_name}s", name, info.field_name)
        return tuple(dict.fromkeys(names))  # an arm given twice is one

    @field_validator("hold")
    @classmethod
    def _names_of_parameters(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            group, _, key = name.partition("/")
            if group not in ARGUMENT_GROUPS or not key:
                groups = ", ".join(ARGUMENT_GROUPS)
                raise ValueError(f"hold: must be GROUP/KEY with GROUP among {groups} (such as opt/lr), got {name!r}")
        return tuple(dict.fromkeys(names))

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

    @field_validator("name")
    @classmethod
    def _name_of_a_folder(cls, name: str) -> str:
        if not name or set(name) - NAME_CHARACTERS:
            raise ValueError(f"name: must be letters, digits, '_', '.', '-' (it names a folder), got {name!r}")
        return name

    @property
    def folder(self) -> Path:
        """The folder of the sweep's records."""
        return expanded(self.runs, "runs").resolve() / self.name

    def identity(self) -> dict[str, Any]:
        """What decides the trials, as JSON. A folder holds the records of one identity.

        The rest may change between two runs of a sweep: most of the budget, and where data and records are.
        """
        search = {name: as_json(getattr(self.search, name)) for name in SearchSpace.__dataclass_fields__}
        identity = {
            "trial": self.trial.model_dump(mode="json", exclude={"lam", "read_test"}),
            "search": search,
            "optimizer": self.optimizer,
            "regularizer": self.regularizer,
            "tuning": self.tuning,
            "hold": self.hold,
            "lam": self.lam,
            "rho": self.rho,
            "num_search_seeds": self.num_search_seeds,
        }
        return json.loads(json.dumps(identity))


def as_json(entry: Any) -> Any:
    """An entry of a search space as JSON; distributions in Optuna's own form."""
    if isinstance(entry, Mapping):
        return {name: as_json(value) for name, value in entry.items()}
    if isinstance(entry, BaseDistribution):
        return json.loads(distribution_to_json(entry))
    return entry
