"""A sweep as one frozen, validated value; how to run it; and its command line, which is made from its fields."""

import atexit
import gc
import inspect
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from service.process import default_runs, prepare_process, typed_command
from sparsity_sweeps import check_libraries, check_working_folder
from trainables.config import Arguments, Lam, Sparsity, TrialConfig, check_name, construct, expanded

if TYPE_CHECKING:
    from service.search.proposals import Arm

__all__ = ["Sweep", "fail"]

# TrialConfig's fields that hold keyword arguments: the `opt` of `opt/rho` and `--opt rho=0.1`.
ARGUMENT_GROUPS = tuple(
    name for name, field in TrialConfig.model_fields.items() if get_origin(field.annotation) is dict
)
SEARCH_DATA = ("space", "tuned", "known", "fixed")  # Sweep's fields that come from a file of search_spaces/
FAILURES_IN_A_ROW = 3  # a sweep stops after so many trials in a row that fail before their first epoch


def option(default: Any, panel: str, help: str, flag: str = "", **rules: Any) -> Any:
    """A field that is also a command-line flag, with its help text and its panel in `--help`."""
    return Field(default, description=help, json_schema_extra={"panel": panel, "flag": flag}, **rules)


WHAT, SEARCH, BUDGET, WHERE = "What is trained", "What is searched", "How much", "Where"


class Sweep(BaseModel):
    """Which task, which search space, which budget. A file of sweeps/ makes one and calls its `main()`.

    space, tuned, known and fixed are data from `search_spaces/`, whose docstring defines them.
    A ValueError (pydantic's, or from `run`) has one line for each fault.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    space: dict[str, Any]
    known: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    tuned: dict[str, Any] = {}

    name: str = option("", WHERE, "folder below --runs and experiment in MLflow; the dataset's name by default")
    task: str = "cnn"
    task_args: Arguments = option({}, WHAT, "argument of the task, KEY=VALUE, e.g. prune=qk; repeatable")
    dataset: str = option(..., WHAT, "dataset")
    data: Arguments = option({}, WHAT, "argument of the dataset, KEY=VALUE, e.g. image_size=64; repeatable")
    architecture: str = option(..., WHAT, "network")
    model: Arguments = option({}, WHAT, "argument of the network, KEY=VALUE, e.g. width=16; repeatable")
    train_size: int | None = option(None, WHAT, "training examples used; all by default", ge=1)
    eval_size: int | None = option(None, WHAT, "validation examples used, and test examples; all by default", ge=1)
    pruning_schedule: str = option("one_shot", WHAT, "train and prune once (one_shot) or in rounds (imp, concave_mask)")
    pruning_sched: Arguments = option(
        {}, WHAT, "argument of the pruning_schedule, KEY=VALUE, e.g. rounds=3; repeatable"
    )
    max_epochs: int = option(..., WHAT, "epochs of a trial, or of a round of its pruning_schedule", "epochs", ge=1)
    patience: int | None = option(
        None, WHAT, "stop a trial after so many evaluations without a better dense objective", ge=1
    )
    batch_size: int = option(128, WHAT, "examples a step", ge=1)
    accumulate: int = option(
        1, WHAT, "parts that each batch is split into, to save memory (gradient accumulation)", ge=1
    )
    opt: Arguments = option(
        {"lr": 0.1}, WHAT, "argument of every optimizer, KEY=VALUE, e.g. weight_decay=5e-4; repeatable"
    )
    lr_schedule: str = option("constant", WHAT, "learning-rate schedule")
    lr_sched: Arguments = option({}, WHAT, "argument of the schedule, KEY=VALUE; repeatable")

    optimizer: tuple[str, ...] = option(
        (), SEARCH, "search with this optimizer; repeatable; all of the space by default"
    )
    regularizer: tuple[str, ...] = option(
        (), SEARCH, "search with this regularizer; repeatable; all of the space by default"
    )
    reg: Arguments = option({}, SEARCH, "argument of the regularizers, KEY=VALUE; repeatable")
    tuning: Literal["fair", "paper"] = option(
        "fair",
        SEARCH,
        "fair: search lr and weight decay of every combination, baselines included; paper: hold them at --opt's values",
    )
    hold: tuple[str, ...] = option(
        (), SEARCH, "hold this parameter at its given value, e.g. opt/lr; --opt lr=0.05 does it for opt/lr; repeatable"
    )
    lam: Lam | None = option(None, SEARCH, "hold the penalty's strength at this value instead of searching")
    rho: float | None = option(
        None, SEARCH, "hold the SAM-family radius (units of w) at this value instead of searching"
    )
    criterion: str = option("magnitude", SEARCH, "what ranks weights for pruning")
    crit: Arguments = option({}, SEARCH, "argument of the criterion, KEY=VALUE; repeatable")
    min_kept: int = option(0, SEARCH, "smallest number of weights that each tensor keeps", ge=0)
    recalibrate: bool = option(
        False, SEARCH, "also record metrics with BatchNorm statistics re-estimated after pruning"
    )
    num_sharpness_batches: int = option(
        0,
        SEARCH,
        "average the largest Hessian eigenvalue over this many batches of 1024 at a trial's end",
        "sharpness",
        ge=0,
    )
    scope: str = option("global", SEARCH, "weights ranked together: global, uniform (per tensor), or N:M, e.g. 2:4")
    target_sparsity: Sparsity = option(
        0.96, SEARCH, "fraction of prunable weights removed for the objective, in [0, 1)"
    )
    sparsities: tuple[Sparsity, ...] = option((), SEARCH, "also evaluate at this sparsity; repeatable", "sparsity")
    reuse_best: bool = option(False, SEARCH, "start from the best values recorded for this architecture")

    num_trials: int = option(6, BUDGET, "configurations searched for each combination", "trials", ge=1)
    num_search_seeds: int = option(
        1,
        BUDGET,
        "seeds for each configuration of the search, which maximizes the mean over them",
        "search-seeds",
        ge=1,
    )
    num_confirm: int | None = option(
        None,
        BUDGET,
        "train the best configuration of so many combinations, and of every baseline, on unseen seeds; all by default",
        "confirm",
        ge=0,
    )
    num_seeds: int = option(
        5, BUDGET, "unseen seeds for each confirmed combination, on average if racing", "seeds", ge=1
    )
    race: bool = option(
        True, BUDGET, "give the seeds of clearly beaten combinations to the contenders, each up to twice --seeds"
    )
    num_evaluations: int = option(8, BUDGET, "evaluations and checkpoints during a trial", "evaluations", ge=1)
    seed: int = option(0, BUDGET, "seed of the search and its trials; the unseen seeds are the next ones", ge=0)

    runs: Path = option(default_runs(), WHERE, "folder of all records; $SPARSITY_SWEEPS_RUNS by default, else runs")
    data_root: Path | None = option(None, WHERE, "folder with the dataset; by default it is downloaded if possible")
    cpus_per_trial: float = option(1, WHERE, "CPUs, and threads, of a trial", "cpus", gt=0)
    gpus_per_trial: float | None = option(
        None, WHERE, "GPUs of a trial: 0 or a fraction in (0, 1]; 1 by default if there are any", "gpus"
    )
    max_concurrent: int | None = option(
        None, WHERE, "trials that run at once; as many as fit by default", "concurrent", ge=1
    )
    keep: Literal["target", "all", "none"] = option(
        "target", WHERE, "pruned checkpoints kept: at the target, all, none"
    )
    tracking_uri: str = option("", WHERE, "MLflow server; a database in --runs by default (or MLFLOW_TRACKING_URI)")
    study_uri: str = option("", WHERE, "Optuna storage, e.g. postgresql://...; a file in the sweep's folder by default")

    @field_validator("optimizer", "regularizer")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...], info: Any) -> tuple[str, ...]:
        for name in names:
            check_name(
                f"sparsity.{'optimizers' if info.field_name == 'optimizer' else 'regularizers'}", name, info.field_name
            )
        return tuple(dict.fromkeys(names))  # each once: an arm given twice is one

    @field_validator("hold")
    @classmethod
    def _held_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
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
    def _known_home(cls, path: Path | None) -> Path | None:
        return path and expanded(path, "data_root")

    @model_validator(mode="before")
    @classmethod
    def _named_after_dataset(cls, fields: Any) -> Any:
        return {**fields, "name": fields.get("name") or fields.get("dataset", "")}

    @model_validator(mode="after")
    def _plain_name(self) -> "Sweep":
        if not self.name or set(self.name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"):
            raise ValueError(f"name: must be letters, digits, '_', '.', '-' (it names a folder), got {self.name!r}")
        return self

    # ---- what it is made of ------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        return expanded(self.runs, "runs").resolve() / self.name

    def identity(self) -> dict[str, Any]:
        """The fields that determine the trials, as JSON: a folder holds the records of one identity. Most of the budget
        and the places of data and records may change between runs."""
        fields = {
            name
            for name, field in type(self).model_fields.items()
            if not isinstance(field.json_schema_extra, dict) or field.json_schema_extra["panel"] in (WHAT, SEARCH)
        }
        fields = (fields | {"num_evaluations", "num_search_seeds", "seed"}) - {"reuse_best", *SEARCH_DATA}
        described = {"space": describe_space(self.space), "tuned": describe_space(self.tuned)}
        described |= {"known": self.known, "fixed": self.fixed}
        return self.model_dump(mode="json", include=fields) | json.loads(json.dumps(described))

    def arms(self) -> "list[Arm]":
        """The combinations to search, each with the parameters to search for it."""
        from service.search.proposals import Arm, make_arms, resolve

        arms: list[Arm] = []
        taken: set[str] = set()
        chosen = {"optimizer": self.optimizer, "regularizer": self.regularizer}
        for arm in make_arms(self.space, self.known, chosen):
            choices = self._choices(arm.choices)
            held = self._held(choices)
            if choices["regularizer"] != "none" and "lam" not in arm.space and "lam" not in held:
                raise ValueError(f"lam: must be given, as --lam, for {choices['regularizer']} (the space has no range)")
            tuned = {name: resolve(rule, choices) for name, rule in self.tuned.items() if self.tuning == "fair"}
            tuned = {name: dist for name, dist in tuned.items() if dist is not None}
            own = self.trial_config(arm.choices, {})
            known = {name: value for name in tuned if (value := own.get(name)) is not None} | arm.known
            space = {name: dist for name, dist in (arm.space | tuned).items() if name not in (*held, *self.hold)}
            known = {name: value for name, value in known.items() if name in space}
            arms.append(Arm(arm.choices, space, known))
            taken |= set(held)
        for name, value in (("lam", self.lam), ("opt/rho", self.rho)):
            if value is not None and name not in taken:
                tried = ", ".join(arm.name for arm in arms)
                raise ValueError(
                    f"{name.removeprefix('opt/')}: must be held for a method that has it, none of {tried} has"
                )
        return arms

    def is_baseline(self, choices: Mapping[str, str]) -> bool:
        """Whether this combination has no regularizer."""
        return self._choices(choices)["regularizer"] == "none"

    def _choices(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """An arm's choices, completed by the choices that `fixed` adds and by the defaults."""
        from service.search.proposals import resolve

        brought = {name: resolve(self.fixed.get(name), chosen) for name in ("regularizer", "optimizer")}
        return {"regularizer": "none", "optimizer": "sgd", **{k: v for k, v in brought.items() if v}, **chosen}

    def _held(self, choices: Mapping[str, str]) -> dict[str, float]:
        """The values of --lam and --rho, for the chosen methods that have them."""
        import sparsity

        held = {}
        if self.lam is not None and choices["regularizer"] != "none":
            held["lam"] = self.lam
        optimizer = sparsity.load("optimizers", choices["optimizer"])
        if self.rho is not None and "rho" in inspect.signature(optimizer).parameters:
            held["opt/rho"] = self.rho
        return held

    def trial_config(self, choices: Mapping[str, str], params: Mapping[str, Any], **more: Any) -> TrialConfig:
        """The configuration of a trial: the sweep's own values, the arm's choices, and what the search proposed."""
        from service.search.proposals import resolve

        choices = self._choices(choices)
        fields: dict[str, Any] = {name: getattr(self, name) for name in TrialConfig.model_fields if hasattr(self, name)}
        for group in ARGUMENT_GROUPS:
            fields[group] = dict(fields[group])
        fields["lam"] = 0.0
        if choices["regularizer"] == "none":
            fields["reg"] = {}
        fixed = {name: value for name, rule in self.fixed.items() if (value := resolve(rule, choices)) is not None}
        fixed = {
            name: value for name, value in fixed.items() if name not in {f"reg/{argument}" for argument in self.reg}
        }
        for name, value in (fixed | choices | self._held(choices) | dict(params)).items():
            group, _, key = name.rpartition("/")
            (fields[group] if group else fields)[key] = value
        return TrialConfig.model_validate(fields | more)

    # ---- checks before anything starts -------------------------------------------------------------------------

    def check(self) -> "tuple[list[Arm], Any, int | None]":
        """Find errors before a trial starts. Returns the arms, the task's data, and the estimated bytes of a trial on a
        CPU, None if there is no estimate.

        Builds every arm's regularizer and optimizer at the ends of its ranges on a tiny weight, so that a value that a
        method rejects raises ValueError now.
        """
        import torch

        import sparsity
        from sparsity import masks
        from trainables.loop import Training, make_pruning_schedule
        from trainables.memory_estimate import training_memory

        arms = self.arms()
        configs = []
        for arm in arms:
            ends = [{name: getattr(dist, end) for name, dist in arm.space.items()} for end in ("low", "high")]
            configs += [self.trial_config(arm.choices, params) for params in ends]
        for config in configs:
            weight = torch.nn.Parameter(torch.ones(4, 4))
            construct("reg", sparsity.load("regularizers", config.regularizer), [weight], arguments=config.reg)
            construct("opt", sparsity.load("optimizers", config.optimizer), [weight], arguments=config.opt)
            make_pruning_schedule(config)
        self._check_writable()
        task_class = sparsity.find("trainables.tasks", self.task)
        data = task_class.load(configs[0], str(self.data_root) if self.data_root else None)
        task = task_class(configs[0], data)
        model = Training(task, configs[0]).model
        masks.rank([weight.detach()[:1] for weight in task.prunable(model).values()], self.scope)  # rows are alike
        return arms, data, training_memory(task, configs[0], model)

    def _check_writable(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"runs: must be a folder that can be written (choose another with --runs), got {self.folder} "
                f"({error.strerror})"
            ) from None

    # ---- running -----------------------------------------------------------------------------------------------

    def run(self, command: Sequence[str] | None = None) -> dict[str, Any]:
        """Run the remaining trials and return the summary (see `service.views.tables.summarize`).

        A failed trial is recorded and the sweep continues. Raises ValueError, one line for each fault, before anything
        starts, and KeyboardInterrupt after a clean stop, from which the next call continues.
        command: the command line to record for `python -m sweeps retry`.
        """
        prepare_process()
        check_libraries()
        check_working_folder()
        gc.disable()  # imported objects stay alive: searching them for garbage takes half a second
        try:
            from service.driver import run_sweep
        finally:
            gc.enable()
        return run_sweep(self, command)

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """The command line, with a flag for each argument.

        Exit codes: 0 complete; 1 no trial finished, or the sweep stopped early because of a fault; 2 invalid input;
        130 stopped by Ctrl-C, `python -m sweeps stop` or a termination signal.
        """
        prepare_process()
        atexit.register(end_quickly)
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(help=inspect.getdoc(sys.modules["__main__"]) or self.name)(make_command(self))
        app(args=list(arguments) if arguments is not None else None)


def end_quickly() -> None:
    """Skip the garbage collection at exit, which takes two seconds, unless triton is loaded: it would list each of its
    objects as leaked."""
    if "triton" not in sys.modules:
        gc.freeze()


def describe_space(space: Mapping[str, Any]) -> dict[str, Any]:
    return {name: describe_space(rule) if isinstance(rule, Mapping) else repr(rule) for name, rule in space.items()}


# ---- the command line ------------------------------------------------------------------------------------------


def make_command(sweep: Sweep) -> Callable[..., None]:
    """A function whose signature has a typer option for each argument; each help text shows the sweep's own value."""
    parameters = []
    for name, field in Sweep.model_fields.items():
        if not isinstance(field.json_schema_extra, dict):
            continue
        extra = field.json_schema_extra
        default = getattr(sweep, name)
        flag = f"--{extra['flag'] or name}".replace("_", "-")
        kind = option_type(field.annotation)
        shown = show(default)
        option = typer.Option(
            *([flag] if kind is not bool else [f"{flag}/--no-{flag[2:]}"]),
            help=f"{field.description} [{shown}]" if shown else field.description,
            rich_help_panel=str(extra["panel"]),
            show_default=False,
            metavar="KEY=VALUE" if get_origin(field.annotation) is dict else None,
        )
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])
        )

    def command(**given: Any) -> None:
        try:
            chosen = {name: value for name, value in given.items() if value not in (None, [])}
            for name in ARGUMENT_GROUPS:
                if name in chosen:
                    arguments = parse_arguments(name, chosen[name])
                    chosen[name] = {**getattr(sweep, name), **arguments}
                    typed = [f"{name}/{key}" for key in arguments]
                    chosen["hold"] = (*sweep.hold, *chosen.get("hold", ()), *typed)
            own = {name: getattr(sweep, name) for name in sweep.model_fields_set}
            if own.get("name") == sweep.dataset and "dataset" in chosen:
                del own["name"]
            made = Sweep(**{**own, **chosen})
            summary = made.run(typed_command())
        except (ValueError, OSError) as error:
            fail(error)
        except KeyboardInterrupt:
            from service.records.state import without_password

            again = shlex.join([sys.orig_argv[0], *map(without_password, sys.orig_argv[1:])])
            typer.echo(f"Stopped. The same command goes on from here.\n{again}", err=True)
            raise typer.Exit(130) from None
        raise typer.Exit(0 if summary["winner"] and summary["complete"] else 1)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def option_type(annotation: Any) -> Any:
    """The type that typer parses for a field's type: a list of strings for KEY=VALUE pairs, a list for a tuple."""
    if get_origin(annotation) is Annotated:
        return option_type(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return list[str]
    if get_origin(annotation) is tuple:
        return list[option_type(get_args(annotation)[0])]  # type: ignore[misc]
    if type(None) in get_args(annotation):
        return option_type(Union[tuple(a for a in get_args(annotation) if a is not type(None))])  # noqa: UP007
    if get_origin(annotation) is Literal:
        return str
    return annotation


def show(default: Any) -> str:
    if isinstance(default, Mapping):
        return " ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in default.items()
        )
    if isinstance(default, tuple):
        return " ".join(str(value) for value in default)
    return "" if default is None or default is False else str(default)


def parse_arguments(group: str, pairs: Sequence[str]) -> dict[str, Any]:
    arguments = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{group}: must be KEY=VALUE (e.g. --{group} lr=0.1), got {pair!r}")
        try:
            arguments[key] = json.loads(text)
        except json.JSONDecodeError:
            arguments[key] = text
    return arguments


def fail(error: Exception) -> NoReturn:
    """Print one line for each fault and leave with exit code 2."""
    if isinstance(error, ValidationError):
        lines = []
        for fault in error.errors():
            field = "/".join(str(part) for part in fault["loc"])
            message = fault["msg"].removeprefix("Value error, ")
            own = fault["type"] == "value_error" and ":" in message.split(" ", 1)[0]
            lines.append(message if own else f"{field}: {message[0].lower()}{message[1:]}, got {fault['input']!r}")
    else:
        lines = [" ".join(str(error).split("\n"))]
    for line in dict.fromkeys(lines):
        typer.echo(line, err=True)
    raise typer.Exit(2)
