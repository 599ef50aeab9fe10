"""One trial's configuration: a frozen, validated value, the only thing that decides what the trial computes."""

import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

import sparsity

__all__ = ["TrialConfig", "check_name", "check_sparsity", "construct", "expanded"]


def check_name(package: str, name: str, where: str) -> str:
    """`name` if `package` has a file of that name, else ValueError with what it has."""
    choices = sparsity.choices(package)
    if name not in choices:
        raise ValueError(f"{where}: must be one of {', '.join(choices)}, got {name!r}")
    return name


def expanded(path: str | Path, where: str) -> Path:
    """The path with a user's home in place of `~`. ValueError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{where}: must be without ~, or begin with the home of a user, got {str(path)!r}") from None


def check_sparsity(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"sparsity: must be in [0, 1) (the fraction of weights removed), got {value:g}")
    return value


def check_arguments(arguments: Any, info: ValidationInfo) -> Any:
    for name, value in arguments.items() if isinstance(arguments, dict) else ():
        if not isinstance(value, bool | int | float | str):
            raise ValueError(f"{info.field_name}/{name}: must be a number, true, false or a word, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{info.field_name}/{name}: must be finite, got {value}")
    return arguments


def check_lam(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"lam: must be >= 0 and finite (it scales a penalty), got {value:g}")
    return value


def named(package: str, where: str) -> AfterValidator:
    return AfterValidator(lambda name: check_name(package, name, where))


Sparsity = Annotated[float, AfterValidator(check_sparsity)]
Lam = Annotated[float, AfterValidator(check_lam)]
Arguments = Annotated[dict[str, bool | int | float | str], BeforeValidator(check_arguments)]


def construct(where: str, make: Callable[..., Any], *args: Any, arguments: Mapping[str, Any], **given: Any) -> Any:
    """`make(*args, **given, **arguments)`, a constructor with the arguments of the configuration's group `where`.

    ValueError names a argument that it does not take, or lacks, and says what those are that it takes.
    """
    parameters = list(inspect.signature(make).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = {p.name: p for p in parameters[len(args) :] if p.kind in kinds and p.name not in given}
    taken = ", ".join(own) or "(none)"
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):  # else it refuses them itself
        for argument in arguments:
            if argument not in own:
                raise ValueError(f"{where}: arguments of {make.__name__} must be among {taken}, got {argument!r}")
    for name, parameter in own.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise ValueError(f"{where}: arguments of {make.__name__} must include {name}, got {dict(arguments)}")
    try:
        return make(*args, **given, **arguments)
    except TypeError as error:
        raise ValueError(
            f"{where}: arguments must be what {make.__name__} takes, got {dict(arguments)} ({error})"
        ) from error


class TrialConfig(BaseModel):
    """What one trial trains, prunes and measures. Arguments are grouped as the objects that take them: `opt/rho` is
    `config.opt["rho"]` and SAM's `rho`. ValueError (pydantic's) names the field, the rule and the value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Annotated[str, named("trainables.tasks", "task")] = "cnn"
    task_args: Arguments = {}
    dataset: str
    data: Arguments = {}
    architecture: Annotated[str, named("trainables.architectures", "architecture")]
    model: Arguments = {}
    train_size: int | None = Field(None, ge=1)
    eval_size: int | None = Field(None, ge=1)
    optimizer: Annotated[str, named("sparsity.optimizers", "optimizer")] = "sgd"
    opt: Arguments = {"lr": 0.1}
    regularizer: Annotated[str, named("sparsity.regularizers", "regularizer")] = "none"
    reg: Arguments = {}
    lam: Lam = 0.0
    lr_schedule: Annotated[str, named("trainables.lr_schedules", "lr_schedule")] = "constant"
    lr_sched: Arguments = {}
    pruning_schedule: Annotated[str, named("trainables.pruning_schedules", "pruning_schedule")] = "one_shot"
    pruning_sched: Arguments = {}
    max_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(1, ge=1)
    patience: int | None = Field(None, ge=1)
    num_evaluations: int = Field(8, ge=1)
    criterion: Annotated[str, named("sparsity.criteria", "criterion")] = "magnitude"
    crit: Arguments = {}
    scope: str = "global"
    min_kept: int = Field(0, ge=0)
    recalibrate: bool = False
    num_sharpness_batches: int = Field(0, ge=0)
    target_sparsity: Sparsity
    sparsities: tuple[Sparsity, ...] = ()
    seed: int = Field(0, ge=0, lt=2**63)
    read_test: bool = False

    @model_validator(mode="after")
    def _parts_and_rounds_go_together(self) -> "TrialConfig":
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate: must be at most the batch size {self.batch_size}, got {self.accumulate}")
        if self.patience is not None and self.pruning_schedule != "one_shot":
            raise ValueError(
                f"patience: must not be given with pruning_schedule {self.pruning_schedule} (its rounds are of equal length)"
            )
        return self

    @model_validator(mode="after")
    def _knobs_have_one_place(self) -> "TrialConfig":
        if self.regularizer == "none" and self.lam > 0:
            raise ValueError(f"lam: must be 0 without a regularizer (nothing is scaled), got {self.lam:g}")
        if self.recalibrate and self.criterion == "compensation":
            raise ValueError(
                "recalibrate: must be off with compensation (it would undo the shifts in BatchNorm), got on"
            )
        return self

    @model_validator(mode="after")
    def _scope_has_these_levels(self) -> "TrialConfig":
        if self.scope in ("global", "uniform"):
            return self
        n_of_m = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", self.scope)
        if not n_of_m or int(n_of_m[1]) > int(n_of_m[2]):
            raise ValueError(
                f"scope: must be one of global, uniform, n:m with 1 <= n <= m (such as 2:4), got {self.scope!r}"
            )
        only = 1 - int(n_of_m[1]) / int(n_of_m[2])
        for level in self.levels:
            if level and not math.isclose(level, only, abs_tol=1e-9):
                raise ValueError(f"sparsity: must be {only:g} with scope {self.scope} (it has no other), got {level:g}")
        return self

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand for this configuration: the trial's folder, its tag in the records.

        Of what differs from the defaults, so that a field that is added later changes no key there is.
        """
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def get(self, name: str) -> Any:
        """The value of a parameter by its flat name, `opt/rho` or `lam`; None where there is none."""
        group, slash, key = name.partition("/")
        return getattr(self, group).get(key) if slash else getattr(self, group)

    @property
    def levels(self) -> tuple[float, ...]:
        """Every sparsity that is evaluated at the end, ascending: 0, `sparsities` and `target_sparsity`."""
        return tuple(sorted({0.0, *self.sparsities, self.target_sparsity}))

    @property
    def evaluation_epochs(self) -> tuple[int, ...]:
        """The epochs (counted as done) after which the pruned copy is evaluated and a checkpoint is written."""
        num = min(self.num_evaluations, self.max_epochs)
        return tuple(round(self.max_epochs * (i + 1) / num) for i in range(num))
