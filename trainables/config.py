"""One trial's configuration: a frozen, validated value, the only thing that decides what the trial computes."""

import hashlib
import json
import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

import sparsity

__all__ = ["TrialConfig", "check_name", "check_sparsity"]


def check_name(package: str, name: str, where: str) -> str:
    """`name` if `package` has a file of that name, else ValueError with what it has."""
    choices = sparsity.menu(package)
    if name not in choices:
        raise ValueError(f"{where}: must be one of {', '.join(choices)}, got {name!r}")
    return name


def check_sparsity(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"sparsity: must be in [0, 1) (the fraction of weights removed), got {value:g}")
    return value


def check_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"must be finite, got {value}")
    return value


def check_lam(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"lam: must be >= 0 and finite (it scales a penalty), got {value:g}")
    return value


def named(package: str, where: str) -> AfterValidator:
    return AfterValidator(lambda name: check_name(package, name, where))


Sparsity = Annotated[float, AfterValidator(check_sparsity)]
Lam = Annotated[float, AfterValidator(check_lam)]
Knob = Annotated[bool | int | float | str, AfterValidator(check_finite)]
Knobs = dict[str, Knob]


class TrialConfig(BaseModel):
    """What one trial trains, prunes and measures. Knobs are grouped as the objects that take them: `opt/rho` is
    `config.opt["rho"]` and SAM's `rho`. ValueError (pydantic's) names the field, the rule and the value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Annotated[str, named("trainables.tasks", "task")] = "cnn"
    dataset: str
    architecture: Annotated[str, named("trainables.architectures", "architecture")]
    model: Knobs = {}
    train_size: int | None = Field(None, ge=1)
    optimizer: Annotated[str, named("sparsity.optimizers", "optimizer")] = "sgd"
    opt: Knobs = {"lr": 0.1}
    regularizer: Annotated[str, named("sparsity.regularizers", "regularizer")] = "none"
    reg: Knobs = {}
    lam: Lam = 0.0
    schedule: Annotated[str, named("trainables.schedules", "schedule")] = "constant"
    sched: Knobs = {}
    max_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    num_rungs: int = Field(8, ge=1)
    criterion: Annotated[str, named("sparsity.criteria", "criterion")] = "magnitude"
    scope: str = "global"
    target_sparsity: Sparsity
    sparsities: tuple[Sparsity, ...] = ()
    seed: int = Field(0, ge=0)
    read_test: bool = False

    @model_validator(mode="after")
    def _knobs_have_one_place(self) -> "TrialConfig":
        if self.regularizer == "none" and self.lam > 0:
            raise ValueError(f"lam: must be 0 without a regularizer (nothing is scaled), got {self.lam:g}")
        return self

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand for this configuration: the trial's folder, its tag in the records."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def levels(self) -> tuple[float, ...]:
        """Every sparsity that is evaluated at the end, ascending: 0, `sparsities` and `target_sparsity`."""
        return tuple(sorted({0.0, *self.sparsities, self.target_sparsity}))

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs (counted as done) after which the pruned copy is evaluated and a checkpoint is written."""
        num = min(self.num_rungs, self.max_epochs)
        return tuple(round(self.max_epochs * (i + 1) / num) for i in range(num))
