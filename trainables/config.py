"""One trial's configuration: a frozen, validated value, the only thing that decides what the trial computes."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, get_origin

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sparsity.import_strings import check_import_string, is_import_string, short_name, source_of
from sparsity.registry import name_of
from trainables.arguments import Arguments
from trainables.pruning_method import PruningMethod, Sparsity, named

__all__ = [
    "ARGUMENT_GROUPS",
    "EVALUATED",
    "HYPERPARAMETERS",
    "TEST_ARGUMENTS",
    "Lam",
    "TrialConfig",
    "hyperparameters",
]


def check_lam(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"lam: must be >= 0 and finite (it scales a penalty), got {value:g}")
    return value


def check_dataset(given: Any) -> str:
    """Another name than an import string is checked by the task, which says what it needs."""
    name = name_of("trainables.datasets", given, "dataset")
    return check_import_string(name, "dataset") if is_import_string(name) else name


Lam = Annotated[float, AfterValidator(check_lam)]


class TrialConfig(PruningMethod):
    """What one trial trains, prunes and measures.

    Keyword arguments are grouped by the object that takes them: `opt/rho` is `config.opt["rho"]` and SAM's `rho`. In
    Python, a class or function can stand for its name: `TrialConfig(architecture=build, ...)`. The field is then its
    name or import string (see `sparsity.registry.name_of`).

    Raises:
        ValueError: pydantic's, one line for each fault, with the field, the rule and the value.
    """

    task: Annotated[str, named("trainables.tasks", "task")] = Field(default="cnn", description="kind of problem")
    task_args: Arguments = Field(default={}, description="argument of the task, e.g. prune=qk")
    dataset: Annotated[str, BeforeValidator(check_dataset)] = Field(description="dataset")
    data: Arguments = Field(default={}, description="argument of the dataset, e.g. image_size=64")
    architecture: Annotated[str, named("trainables.architectures", "architecture")] = Field(description="network")
    model: Arguments = Field(default={}, description="argument of the network, e.g. width=16")
    train_size: int | None = Field(default=None, ge=1, description="number of training examples; default: all")
    eval_size: int | None = Field(
        default=None, ge=1, description="number of validation examples, and of test examples; default: all"
    )
    optimizer: Annotated[str, named("sparsity.optimizers", "optimizer")] = Field(default="sgd", description="optimizer")
    opt: Arguments = Field(default={"lr": 0.1}, description="argument of the optimizers, e.g. weight_decay=5e-4")
    regularizer: Annotated[str, named("sparsity.regularizers", "regularizer")] = Field(
        default="none", description="sparsity regularizer"
    )
    reg: Arguments = Field(default={}, description="argument of the regularizers, e.g. eps=1e-8")
    lam: Lam = Field(default=0.0, description="strength of the penalty: the loss is task loss + lam * penalty")
    lr_schedule: Annotated[str, named("trainables.lr_schedules", "lr_schedule")] = Field(
        default="constant", description="learning-rate schedule"
    )
    lr_sched: Arguments = Field(default={}, description="argument of the learning-rate schedule, e.g. gamma=0.1")
    pruning_schedule: Annotated[str, named("trainables.pruning_schedules", "pruning_schedule")] = Field(
        default="one_shot", description="when to prune: once after training (one_shot), or in rounds"
    )
    pruning_sched: Arguments = Field(default={}, description="argument of the pruning schedule, e.g. rounds=3")
    max_epochs: int = Field(ge=1, description="epochs of a trial, or of each round of its pruning schedule")
    batch_size: int = Field(default=128, ge=1, description="examples in a step")
    accumulate: int = Field(default=1, ge=1, description="split each batch into this many parts to save memory")
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop a trial after this many evaluations in which the metric before pruning did not improve",
    )
    num_evaluations: int = Field(default=8, ge=1, description="evaluations, each with a checkpoint, during a trial")
    num_sharpness_batches: int = Field(
        default=0,
        ge=0,
        description="batches of 1024 examples to estimate the largest Hessian eigenvalue on, at the end of a trial",
    )
    target_sparsity: Sparsity = Field(
        description="fraction of prunable weights removed, in [0, 1); by default, the search maximizes the accuracy "
        "there"
    )
    sparsities: tuple[Sparsity, ...] = Field(default=(), description="also evaluate at this sparsity")
    more_pruning: tuple[PruningMethod, ...] = Field(
        default=(), description="other methods that prune the same trained network, to compare them"
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="first seed of the search; the confirmation uses the seeds after the search's",
    )
    read_test: bool = Field(default=False, description="also evaluate on the test split")
    sources: Mapping[str, str] = Field(default={}, description="digest of the source of each import string")

    @model_validator(mode="after")
    def _read_sources(self) -> "TrialConfig":
        names = {field: getattr(self, field) for field in NAMED if is_import_string(getattr(self, field))}
        found = {name: self.sources.get(name) or source_of(name, field).digest for field, name in names.items()}
        if found != self.sources:  # __dict__, because the value is frozen for everyone else
            self.__dict__["sources"] = found
        return self

    @model_validator(mode="after")
    def _parts_and_rounds_go_together(self) -> "TrialConfig":
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate: must be at most the batch size {self.batch_size}, got {self.accumulate}")
        if self.patience is not None and self.pruning_schedule != "one_shot":
            raise ValueError(
                f"patience: must not be given with pruning_schedule {self.pruning_schedule} (its rounds are of equal "
                "length)"
            )
        return self

    @model_validator(mode="after")
    def _arguments_have_one_place(self) -> "TrialConfig":
        if self.regularizer == "none" and self.lam > 0:
            raise ValueError(f"lam: must be 0 without a regularizer (nothing is scaled), got {self.lam:g}")
        return self

    @model_validator(mode="after")
    def _scope_has_these_levels(self) -> "TrialConfig":
        only = self.only_level
        for level in self.levels:
            if level and only is not None and not math.isclose(level, only, abs_tol=1e-9):
                raise ValueError(f"sparsity: must be {only} with scope {self.scope} (it has no other), got {level}")
        return self

    @model_validator(mode="after")
    def _rounds_prune_in_one_way(self) -> "TrialConfig":
        if self.more_pruning and self.pruning_schedule != "one_shot":
            raise ValueError(
                f"criterion: must be a single one with a single scope for pruning_schedule {self.pruning_schedule} (it "
                f"prunes during training), got {', '.join(method.label for method in self.pruning)}"
            )
        return self

    @property
    def training_key(self) -> str:
        """16 hexadecimal digits that identify the trained weights: a hash of everything that decides them.

        How the network is pruned and evaluated is left out, unless its pruning schedule prunes during the training.
        """
        return self._digest(EVALUATED | {"read_test", "num_sharpness_batches"})

    @property
    def key(self) -> str:
        """16 hexadecimal digits that identify a trial: the training and, beside it, what is measured once at its end.

        It names the trial's folder and its run. The trained network can be pruned by any method, at any sparsity, so
        these are left out, as in `training_key`.
        """
        return self._digest(EVALUATED)

    def _digest(self, left_out: set[str]) -> str:
        """A hash of what differs from the defaults, so that a field that is added later changes no existing key."""
        if self.pruning_schedule != "one_shot":
            left_out = left_out - EVALUATED
        if self.patience is None:  # evaluations then only report
            left_out = left_out | {"num_evaluations"}
        fields = self.model_dump(mode="json", exclude_defaults=True, exclude={*left_out, "sources"})
        for name, default in TEST_ARGUMENTS.get(self.task, {}).items():
            if name in self.task_args and ("read_test" not in fields or self.task_args[name] == default):
                del fields["task_args"][name]
        if fields.get("task_args") == {}:
            del fields["task_args"]
        if "criterion" in fields:
            fields["criterion"] = short_name(self.criterion)
        if self.sources:
            fields |= {name: self._identified(name) for name in NAMED if name in fields}
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _identified(self, field: str) -> str:
        """What a field names, independent of where a file is: its label with the digest of its source.

        A dataset has no digest, because a sweep compares the data themselves.
        """
        name = getattr(self, field)
        if not is_import_string(name):
            return name
        return short_name(name) if field == "dataset" else f"{short_name(name)}@{self.sources[name]}"

    @property
    def pruning(self) -> tuple[PruningMethod, ...]:
        """The methods that prune the trained network, each once. The first one decides the trial's objective."""
        first = PruningMethod(**{name: getattr(self, name) for name in PruningMethod.model_fields})
        return tuple({method.label: method for method in (first, *self.more_pruning)}.values())

    def pruned_by(self, method: PruningMethod) -> "TrialConfig":
        """The same training, pruned by this method alone. An n:m scope has no other sparsity than its own."""
        fields: dict[str, Any] = dict(method) | {"more_pruning": ()}
        if method.only_level is not None and method.scope != self.scope:  # else its own sparsity is given already
            fields |= {"target_sparsity": method.only_level, "sparsities": ()}
        return self.model_copy(update=fields)

    def get(self, name: str) -> Any:
        """The value of a parameter by its flat name, such as `opt/rho` or `lam`; None if it is not set."""
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


# The fields of a training whose value may be an import string.
NAMED = ("task", "dataset", "architecture", "optimizer", "regularizer", "lr_schedule", "pruning_schedule")

# The fields that decide how a trained network is pruned and evaluated.
EVALUATED = {*PruningMethod.model_fields, "more_pruning", "target_sparsity", "sparsities"}

# The arguments of tasks, with their defaults, that decide only how the test split is evaluated. They are part of a
# trial's key if it reads this split, and never of its training key.
TEST_ARGUMENTS: dict[str, dict[str, str]] = {"lora": {"answer": "choose"}}

# TrialConfig's fields that hold keyword arguments: the `opt` of `opt/rho` and `--opt rho=0.1`.
ARGUMENT_GROUPS = tuple(
    name for name, field in TrialConfig.model_fields.items() if get_origin(field.annotation) is dict
)


HYPERPARAMETERS = ("lam", "rho", "lr", "weight_decay")  # what tables show of a configuration


def hyperparameters(config: Mapping[str, Any]) -> dict[str, float | None]:
    """The HYPERPARAMETERS of a configuration's fields; None for those that its methods do not have."""
    lam = None if config["regularizer"] == "none" else config["lam"]
    return {"lam": lam, **{name: config["opt"].get(name) for name in HYPERPARAMETERS[1:]}}
