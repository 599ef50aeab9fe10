"""The command line of a sweep's file: an option for each field of the sweep and of its trials' configuration."""

import atexit
import gc
import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

import sparsity
from service.errors import fail
from service.process import prepare_process, typed_command
from service.records.passwords import hide_passwords
from service.spec import SweepSpec
from trainables.arguments import parse_arguments
from trainables.config import ARGUMENT_GROUPS, TrialConfig

__all__ = ["main"]

# Every option, in the order of `--help`. What most people need comes first.
PANELS = {
    "Options": (
        *("dataset", "architecture", "optimizer", "regularizer", "lam", "rho", "target_sparsity", "max_epochs"),
        *("num_trials", "runs"),
    ),
    "Training": (
        *("task", "task_args", "data", "data_root", "model", "train_size", "eval_size", "batch_size", "accumulate"),
        *("opt", "reg", "lr_schedule", "lr_sched", "num_evaluations", "patience"),
    ),
    "Pruning and evaluation": (
        *("criterion", "crit", "scope", "prunable", "sparsities", "min_kept", "recalibrate", "sizes"),
        *("pruning_schedule", "pruning_sched", "num_sharpness_batches"),
    ),
    "Search and confirmation": (
        *("objective", "max_dense_drop", "max_macs_left", "bounds", "range_from", "tuning", "hold"),
        *("reuse_best", "adopt", "sampler"),
        *("num_search_seeds", "num_finalists", "num_finalist_seeds", "num_confirm", "num_seeds", "race", "seed"),
    ),
    "Where it runs": (
        *("name", "cpus_per_trial", "gpus_per_trial", "max_concurrent", "keep", "export", "tracking_uri", "study_uri"),
    ),
}
FLAGS = {
    "bounds": "range",
    "sparsities": "sparsity",
    "max_dense_drop": "max-dense-drop",
    "max_macs_left": "max-macs-left",
    "num_sharpness_batches": "sharpness",
    "task_args": "task-arg",
}
PREFIXES, SUFFIXES = ("num_", "max_"), ("_per_trial",)
CHOICES = {  # field -> the package that lists what it accepts
    "task": "trainables.tasks",
    "dataset": "trainables.datasets",
    "architecture": "trainables.architectures",
    "optimizer": "sparsity.optimizers",
    "regularizer": "sparsity.regularizers",
    "criterion": "sparsity.criteria",
    "lr_schedule": "trainables.lr_schedules",
    "pruning_schedule": "trainables.pruning_schedules",
}
GROUP_OF = {  # what is named -> the group of its arguments
    "task": "task_args",
    "dataset": "data",
    "architecture": "model",
    "lr_schedule": "lr_sched",
    "pruning_schedule": "pruning_sched",
    "criterion": "crit",
}
MORE_NAMES = {"architecture": "timm/NAME, torchvision/NAME, smp/ARCHITECTURE-ENCODER, "}
QUIET = inspect.Parameter(
    "quiet",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--quiet", help="print only warnings, errors and the final headline", rich_help_panel="Where it runs"
        ),
    ],
)
WORDS = {int: "INTEGER", float: "FLOAT", str: "TEXT", Path: "PATH"}


def main(sweep: SweepSpec, arguments: Sequence[str] | None = None) -> None:
    """Run a sweep with the options of the command line.

    Exit codes: 0 complete; 1 no trial finished, or the sweep stopped early because of a fault; 2 invalid input;
    130 stopped by Ctrl-C, `sweeps stop` or a termination signal.
    """
    prepare_process()
    atexit.register(end_quickly)
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    paragraphs = (inspect.getdoc(sys.modules["__main__"]) or sweep.name).split("\n\n")
    app.command(help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))(make_command(sweep))
    app(args=list(arguments) if arguments is not None else None)


def make_command(sweep: SweepSpec, action: Callable[[Any], None] | None = None) -> Callable[..., None]:
    """A function whose signature has an option for each field. Each help text shows the sweep's own value.

    Args:
        action: What to do with the sweep with these options; by default it is run.
    """

    def command(**given: Any) -> None:
        quiet = given.pop(QUIET.name, False)
        try:
            chosen = with_options(sweep, {name: value for name, value in given.items() if value not in (None, [])})
            if action is not None:
                return action(chosen)
            summary = chosen.run(typed_command(), quiet=quiet)
        except (ValueError, OSError) as error:
            fail(error, {name: flag_of(name) for name in given})
        except KeyboardInterrupt:
            again = shlex.join([sys.orig_argv[0], *map(hide_passwords, sys.orig_argv[1:])])
            typer.echo(f"Stopped. The same command continues from here.\n{again}", err=True)
            raise typer.Exit(130) from None
        raise typer.Exit(0 if summary["winner"] and summary["complete"] else 1)

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*options(sweep), *([QUIET] if action is None else [])]
    )
    return command


def with_options(sweep: SweepSpec, given: Mapping[str, Any]) -> Any:
    """A copy of the sweep, changed by the options.

    Args:
        sweep: The sweep.
        given: Values by field. For argument groups, such as `opt`, a value is a list of texts KEY=VALUE.
    """
    own = {name: getattr(sweep, name) for name in sweep.model_fields_set}
    own_trial = dict(sweep.trial)
    trial = {
        name: value for name, value in given.items() if name in TrialConfig.model_fields and name not in own_fields()
    }
    replaced = {group for name, group in GROUP_OF.items() if names_another(given.get(name), own_trial[name])}
    hold = [name for name in sweep.hold if name.partition("/")[0] not in replaced]
    hold += given.get("hold", ())
    for group in ARGUMENT_GROUPS:
        arguments = parse_arguments(group, trial.get(group, ()))
        if arguments or group in replaced:  # another network does not take the arguments of this one
            trial[group] = {**({} if group in replaced else own_trial[group]), **arguments}
            hold += [f"{group}/{name}" for name in arguments]
    fields = {name: value for name, value in given.items() if name in own_fields()} | {"hold": tuple(hold)}
    changed = TrialConfig.model_validate({**own_trial, **trial}) if trial else sweep.trial
    return type(sweep)(**{**own, **fields, "trial": changed})


def names_another(given: Any, own: str) -> bool:
    """Whether an option, or each of its repetitions, names something else than the sweep does itself."""
    return given is not None and own not in (given if isinstance(given, list | tuple) else [given])


def own_fields() -> set[str]:
    """The sweep's own fields.

    They include `optimizer`, `regularizer` and `lam`: the search sets these fields of a trial's configuration.
    """
    return set(SweepSpec.model_fields)


def options(sweep: SweepSpec) -> Iterator[inspect.Parameter]:
    """A typer option for each field, in the order of PANELS."""
    for panel, names in PANELS.items():
        for name in names:
            field = field_of(name)
            default = getattr(sweep if name in own_fields() else sweep.trial, name)
            kind, repeatable = option_type(field.annotation)
            flag = f"--{flag_of(name)}"
            option = typer.Option(
                *([f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]),
                help=help_of(name, field, default, repeatable),
                rich_help_panel=panel,
                show_default=False,
                metavar=metavar_of(name, field, kind),
            )
            kind = list[kind] if repeatable else kind  # type: ignore[valid-type]
            yield inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
            )


def field_of(name: str) -> FieldInfo:
    return SweepSpec.model_fields.get(name) or TrialConfig.model_fields[name]


def flag_of(name: str) -> str:
    """`--trials` of num_trials, `--epochs` of max_epochs, `--cpus` of cpus_per_trial."""
    if name in FLAGS:
        return FLAGS[name]
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return name.replace("_", "-")


def option_type(annotation: Any) -> tuple[Any, bool]:
    """The type of a field's option, and whether the option is repeatable."""
    if get_origin(annotation) is Annotated:
        return option_type(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return str, True
    if get_origin(annotation) is tuple:
        return option_type(get_args(annotation)[0])[0], True
    if get_origin(annotation) is Literal:
        return str, False
    alternatives = [kind for kind in get_args(annotation) if kind is not NoneType]
    return option_type(alternatives[0]) if alternatives else (annotation, False)


def metavar_of(name: str, field: FieldInfo, kind: Any) -> str | None:
    if kind is bool:
        return ""
    if name == "bounds":
        return "NAME=LOW:HIGH"
    if name in ARGUMENT_GROUPS:
        return "KEY=VALUE"
    if name in CHOICES or name == "name":
        return "NAME"
    if name == "prunable":
        return "REGEX"
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    return WORDS.get(kind)


def help_of(name: str, field: FieldInfo, default: Any, repeatable: bool) -> str:
    """Description, choices, whether it is repeatable, and the sweep's own value."""
    shown = show(default)
    parts = [str(field.description)]
    if name in CHOICES:
        more = f", {MORE_NAMES.get(name, '')}or your own as MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE"
        parts.append(f"one of {', '.join(sparsity.names(CHOICES[name]))}{more}")
    if repeatable:
        parts.append("repeatable")
    return escape("; ".join(parts) + (f" [{shown}]" if shown else ""))


def show(default: Any) -> str:
    if isinstance(default, Mapping):
        return " ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in default.items()
        )
    if isinstance(default, tuple):
        return " ".join(str(value) for value in default)
    return "" if default is None or default is False else str(default)


def end_quickly() -> None:
    """Skip the garbage collection at exit, which takes two seconds.

    Not if triton is loaded: it would list each of its objects as leaked.
    """
    if "triton" not in sys.modules:
        gc.freeze()
