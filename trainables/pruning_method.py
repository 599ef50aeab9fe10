"""How a trained network is pruned."""

import hashlib
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

import sparsity
from sparsity.import_strings import is_import_string, short_name, source_of
from sparsity.registry import name_of
from trainables.arguments import Arguments

__all__ = ["PruningMethod", "Sparsity", "check_sparsity", "folder_of", "named"]


def named(package: str, where: str) -> BeforeValidator:
    """What checks a name of `package`, for which a class or function may stand."""
    return BeforeValidator(lambda given: sparsity.check(package, name_of(package, given, where), where))


def check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"prunable: must be a regular expression, got {pattern!r} ({error})") from None
    return pattern


def check_sparsity(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"sparsity: must be in [0, 1) (the fraction of weights removed), got {value:g}")
    return value


Sparsity = Annotated[float, AfterValidator(check_sparsity)]


class PruningMethod(BaseModel):
    """How a trained network is pruned: what ranks its weights, and which of them are ranked together.

    Raises:
        ValueError: pydantic's, one line for each fault, with the field, the rule and the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    criterion: Annotated[str, named("sparsity.criteria", "criterion")] = Field(
        default="magnitude", description="what ranks weights for pruning"
    )
    crit: Arguments = Field(default={}, description="argument of the criterion, e.g. num_batches=4")
    scope: str = Field(
        default="global",
        description="weights ranked together: global, uniform (per tensor), row (per output row), or N:M like 2:4",
    )
    min_kept: int = Field(default=0, ge=0, description="smallest number of weights kept in each tensor")
    recalibrate: bool = Field(
        default=False,
        description="after pruning, estimate BatchNorm's statistics again from the training data; the pruned network "
        "is evaluated and saved with them",
    )
    prunable: Annotated[str, AfterValidator(check_pattern)] = Field(
        default="",
        description="prune the weights whose names match this regular expression (as `sweeps inspect` lists them); "
        "default: the task's choice",
    )
    criterion_source: str = Field(default="", description="digest of the criterion's source, if it is your own")

    @model_validator(mode="after")
    def _read_criterion_source(self) -> "PruningMethod":
        is_own = is_import_string(self.criterion)
        if is_own != bool(self.criterion_source):  # __dict__, because the value is frozen for everyone else
            self.__dict__["criterion_source"] = source_of(self.criterion, "criterion").digest if is_own else ""
        return self

    @model_validator(mode="after")
    def _recalibration_fits_the_criterion(self) -> "PruningMethod":
        if self.recalibrate and self.criterion == "compensation":
            raise ValueError(
                "recalibrate: must be off with compensation (it would undo the shifts in BatchNorm), got on"
            )
        return self

    @model_validator(mode="after")
    def _scope_is_known(self) -> "PruningMethod":
        n_of_m = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", self.scope)
        if self.scope not in ("global", "uniform", "row") and (not n_of_m or int(n_of_m[1]) > int(n_of_m[2])):
            raise ValueError(
                f"scope: must be one of global, uniform, row, n:m with 1 <= n <= m (such as 2:4), got {self.scope!r}"
            )
        return self

    @model_validator(mode="after")
    def _counts_are_fixed_once(self) -> "PruningMethod":
        if self.min_kept and (self.scope == "row" or ":" in self.scope):
            raise ValueError(f"min_kept: must be 0 with scope {self.scope} (it fixes every count), got {self.min_kept}")
        return self

    @property
    def only_level(self) -> float | None:
        """The one sparsity of an n:m scope; None if the scope allows any sparsity."""
        if ":" not in self.scope:
            return None
        n, m = map(int, self.scope.split(":"))
        return (m - n) / m

    @property
    def label(self) -> str:
        """The method in words, e.g. "magnitude global". Two methods have the same label only if they are equal."""
        criterion = short_name(self.criterion) + f"@{self.criterion_source[:8]}" * bool(self.criterion_source)
        words = [criterion, *(f"{name}={value}" for name, value in sorted(self.crit.items())), self.scope]
        words += [f"min_kept={self.min_kept}"] * bool(self.min_kept) + ["recalibrated"] * self.recalibrate
        words += [f"prunable={self.prunable}"] * bool(self.prunable)
        return " ".join(words)


def folder_of(method: str) -> str:
    """The label of a pruning method as the name of a folder."""
    name = method.replace(" ", "_")
    safe = re.sub(r"[^\w.,=:+@-]", "_", name)
    return name if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
