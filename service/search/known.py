"""Good values of lam and rho for a setting: those of the nearest settings that were recorded or published."""

import math
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from service.records.best import best, is_named, near_best
from service.search.carrying import Setting, decades_of, factor, rule_of
from sparsity.import_strings import short_name

__all__ = ["ATTRIBUTES", "NAMES", "Asked", "Known", "Recommendation", "all_known", "carried", "different_points"]
__all__ += ["difference", "published", "ranked"]

DECADES = 0.5  # half the width of an interval whose source states none
# How far settings are apart that differ in a name. Numbers are as far apart as the logarithm of their ratio.
NAMES = {"architecture": 3.0, "dataset": 2.0, "optimizer": 1.5}
NUMBERS = ("lr", "weight_decay", "max_epochs")
RECALIBRATION = 1.5  # the distance if only one of the settings is recalibrated: lam of Hoyer-square was 1.5 to 12 times
# as large without it (docs/study.md), and the logarithms of these ratios have the mean 1.4
NOT_STATED = 0.5  # the distance of a value that only one of the settings states
ATTRIBUTES = ("pruning_schedule", "criterion", "scope")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Asked(BaseModel):
    """The setting that values are sought for. What is None is not compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    architecture: str | None = None
    dataset: str | None = None
    optimizer: str | None = None
    regularizer: str = Field(min_length=1)
    model: dict[str, Any] = {}
    lr: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_epochs: Annotated[int, Field(ge=1)] | None = None
    target_sparsity: Fraction | None = None
    num_prunable: Annotated[int, Field(ge=1)] | None = None
    pruning_schedule: str = "one_shot"
    criterion: str = "magnitude"
    scope: str = "global"
    recalibrate: bool = False

    @property
    def setting(self) -> Setting:
        return Setting(self.lr, self.weight_decay, self.num_prunable)


class Known(Asked):
    """A configuration that was measured or published.

    Raises:
        ValidationError: If a field is unknown, lacking, or of another type.
    """

    source: str = Field(min_length=1)
    lam: Positive | None = None  # None without a regularizer
    lam_range: Annotated[list[Positive], Field(min_length=2, max_length=2)] | None = None
    rho: Positive | None = None
    value: float | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    _row: dict[str, Any] = PrivateAttr(default_factory=dict)  # of `best`, if a sweep recorded it

    @model_validator(mode="after")
    def _lam_goes_with_a_penalty(self) -> "Known":
        if (self.lam is None) != (self.regularizer == "none"):
            raise ValueError(f"lam: must be given if, and only if, there is a regularizer, got {self.lam}")
        if self.lam_range and self.lam and not self.lam_range[0] <= self.lam <= self.lam_range[1]:
            raise ValueError(f"lam_range: must contain lam {self.lam:g}, got {self.lam_range}")
        return self


class Recommendation(BaseModel):
    """Values for a setting, and where they come from.

    Args:
        lam_interval: The values that were about as good there, wider if the setting differs.
        differs: The names of what differs, each with its value there and here.
    """

    lam: float | None
    lam_interval: tuple[float, float] | None
    rho: float | None
    rule: str
    known: Known
    distance: float
    differs: dict[str, tuple[Any, Any]]


def published(path: Path | None = None) -> list[Known]:
    """The entries of search_spaces/best.toml.

    Raises:
        ValueError: One line for the first entry that is not as it must be.
    """
    file = path or resources.files("search_spaces") / "best.toml"
    entries = tomllib.loads(file.read_text())
    if entries.keys() != {"best"}:
        raise ValueError(f"{file}: must hold [[best]] entries and nothing else, got {', '.join(entries) or 'nothing'}")
    found = []
    for number, entry in enumerate(entries["best"], 1):
        try:
            found.append(Known.model_validate(entry))
        except ValidationError as error:
            fault = error.errors()[0]
            where = "/".join(map(str, fault["loc"]))
            raise ValueError(
                f"{file}: entry {number} ({entry.get('source', 'without a source')}): {where}: {fault['msg']}, "
                f"got {fault['input']!r}"
            ) from None
    return found


def all_known(runs: Path, regularizer: str | None = None, *, skip_sweep: str | None = None) -> list[Known]:
    """What the sweeps in a folder recorded, then what is published.

    Args:
        regularizer: Only this one.
        skip_sweep: Leave out the sweep of this name.
    """
    found: list[Known] = []
    for row in best(runs, regularizer=regularizer, skip_sweep=skip_sweep):
        if row["lam"] or row["regularizer"] == "none":
            fields = {name: row[name] or None for name in ("lam", "rho", "lr", "num_prunable")}
            fields |= {name: row[name] for name in (*NAMES, "regularizer", "model", *ATTRIBUTES, "recalibrate")}
            fields |= {name: row[name] for name in ("weight_decay", "max_epochs", "value", "n")}
            source = f"sweep {row['sweep']}, trial {row['trial']}"
            known = Known.model_validate(fields | {"source": source, "target_sparsity": row["sparsity"]})
            known._row = row
            found.append(known)
    return found + [known for known in published() if regularizer is None or is_named(known.regularizer, regularizer)]


def ranked(known: Iterable[Known], asked: Asked) -> list[Known]:
    """Those with the same regularizer and way of pruning, the nearest first."""
    alike = [
        one
        for one in known
        if is_named(one.regularizer, asked.regularizer)
        and all(getattr(one, name) == getattr(asked, name) for name in ATTRIBUTES)
    ]

    def order(one: Known) -> tuple[float, bool, float]:
        """Of equally near ones, those at the target sparsity of their sweep come first, then the best."""
        return difference(one, asked)[0], not one._row.get("is_target", True), -(one.value or 0.0)

    return sorted(alike, key=order)


def difference(known: Known, asked: Asked) -> tuple[float, dict[str, tuple[Any, Any]]]:
    """How far a known setting is from the one asked for, and what differs: name -> (value there, value here)."""
    total, differs = 0.0, dict[str, tuple[Any, Any]]()
    for name, weight in NAMES.items():
        there, here = getattr(known, name), getattr(asked, name)
        if here is not None and (there is None or not is_named(there, here)):
            total += NOT_STATED if there is None else weight
            differs[name] = (there and short_name(there), short_name(here))
    if known.recalibrate != asked.recalibrate:
        total += RECALIBRATION
        differs["recalibrate"] = (known.recalibrate, asked.recalibrate)
    for name in NUMBERS:
        there, here = getattr(known, name), getattr(asked, name)
        if here is not None and here != there:
            total += abs(math.log(here / there)) if here and there else NOT_STATED
            differs[name] = (there, here)
    there, here = known.target_sparsity, asked.target_sparsity
    if here is not None and here != there:
        total += NOT_STATED if there is None else abs(math.log((1 - here) / (1 - there)))
        differs["target_sparsity"] = (there, here)
    for name, value in asked.model.items():
        if known.model.get(name) != value:
            total += NOT_STATED
            differs[f"model/{name}"] = (known.model.get(name), value)
    return total, differs


def carried(known: Known, asked: Asked, *, runs: Path | None = None) -> Recommendation:
    """The values of a known setting, carried over to the one asked for by the regularizer's rule.

    Args:
        runs: The folder of the sweeps; None leaves out which other values of lam did about as well there.
    """
    rule = rule_of(short_name(known.regularizer))
    times = factor(rule, known.setting, asked.setting)
    distance, differs = difference(known, asked)
    lam = interval = None
    if known.lam:
        lam = known.lam * times
        low, high = known.lam_range or (near_best(runs, known._row) if runs and known._row else (known.lam, known.lam))
        if low == high:
            low, high = low / 10**DECADES, high * 10**DECADES
        wider = 10 ** decades_of(short_name(known.regularizer)) if differs else 1.0
        interval = (low * times / wider, high * times * wider)
    rho = None if "optimizer" in differs else known.rho  # each optimizer has a range of its own
    return Recommendation(
        lam=lam, lam_interval=interval, rho=rho, rule=rule, known=known, distance=distance, differs=differs
    )


def different_points(points: Iterable[dict[str, float]], most: int) -> list[dict[str, float]]:
    """The first `most` points, without those that repeat an earlier one."""
    found: list[dict[str, float]] = []
    for point in points:
        if point and point not in found:
            found.append(point)
    return found[:most]
