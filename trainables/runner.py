"""A trial in a folder of its own: it continues from the checkpoint there, and leaves its result there.

While it runs, the folder holds the last two checkpoints and `owner`, which names the process that runs it. At the end
they are replaced by `pruned/0.96/{model.safetensors,config.json}`, `figures/` and `result.json`. result.json is written
last: the trial has ended if and only if this file exists.
"""

import contextlib
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from torch import nn

import sparsity
from trainables.checkpoints import LATEST, PREVIOUS, read_checkpoint, remove_checkpoints, save_checkpoint
from trainables.config import TrialConfig
from trainables.errors import first_line, one_line
from trainables.files import write_atomically
from trainables.loop import Diverged, Training
from trainables.pruning import Evaluation, apply_pruning, collapse, describe_layers, diagnose, objectives, save_pruned
from trainables.result import RESULT, Status, read_result
from trainables.task import Task

__all__ = ["KEEP", "TrialRunner"]

KEEP = ("target", "all", "none")


class StorageError(RuntimeError):
    """The trial's folder cannot be written: full, read-only or gone."""


class SupersededError(RuntimeError):
    """Another process has taken over the trial, because this host was unreachable."""


class TrialRunner:
    """Train a configuration in a folder, one evaluation at a time.

    Args:
        config: The configuration.
        folder: The trial's own folder; created if necessary.
        make_task: Creates the task. Called at most once; not called if the trial has already ended.
        keep: Which pruned checkpoints to write: of the target sparsity ("target"), of every sparsity ("all"), or
            "none".

    Raises:
        ValueError: If `keep` is something else.
    """

    def __init__(self, config: TrialConfig, folder: Path, make_task: Callable[[], Task], *, keep: str = "target"):
        if keep not in KEEP:
            raise ValueError(f"keep: must be one of {', '.join(KEEP)}, got {keep!r}")
        self.config, self.folder, self.keep = config, folder, keep
        self.training: Training | None = None
        self.notes: list[str] = []
        self.warnings: list[str] = []  # notes that cast doubt on the trial's numbers
        # also written to result.json, because a driver that was killed may not have received all of them
        self.evaluations: list[dict[str, Any]] = []
        self._make_task = make_task
        self._owner = uuid4().hex

    def advance(self) -> dict[str, Any]:
        """Train to the next evaluation. Once the trial has ended, return its last report again.

        Returns:
            A flat report with the keys epoch, seconds, loss, penalty, lr, `<objective>_dense`, `<objective>_pruned` (on
            the validation split, at the target sparsity), status and reason. With several phases it also has
            weights_left. Unknown values are None. Any status except "running" means that the trial has ended here.
            With "storage_failed" and "superseded", no result.json is written.
        """
        terms: dict[str, Any] = {}
        try:
            with storage_errors():
                if result := read_result(self.folder):
                    return result["report"]
            training = self.training or self._start()
            terms = training.train_to_evaluation()
            self._check_owner()
            if training.finished:
                return self._finish(training, terms)
            self._save_progress(training, terms)
            return self._report(Status.RUNNING, "", terms)
        except StorageError as error:
            return self._report(Status.STORAGE_FAILED, str(error), terms)
        except SupersededError as error:
            return self._report(Status.SUPERSEDED, str(error), terms)
        except Diverged as error:
            return self._end(Status.DIVERGED, str(error), terms)
        except Exception as error:  # recorded, so that the sweep goes on
            if is_out_of_memory(error):
                return self._end(Status.OUT_OF_MEMORY, first_line(error) if str(error) else "out of memory", terms)
            return self._end(Status.ERROR, one_line(error), terms, traceback=traceback.format_exc())

    def _start(self) -> Training:
        """Take the trial over from any other process, and continue from the newest checkpoint that can be read."""
        with storage_errors():
            write_atomically(self.folder / "owner", lambda path: path.write_text(self._owner))
        task = self._make_task()
        self.training = Training(task, self.config)
        for name in (LATEST, PREVIOUS):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                state = read_checkpoint(path)
                self.training.load_state_dict(state)
                self.evaluations = state["evaluations"]
                break
            except Exception as error:  # truncated or altered: use the one before it
                self.notes.append(f"{name}: could not be read ({one_line(error)}), passed over")
                path.unlink()  # otherwise the next save would replace the good previous checkpoint by it
                self.training = Training(task, self.config)
        return self.training

    def _check_owner(self) -> None:
        """Raise SupersededError if another process has started the trial: two would overwrite each other's files."""
        with storage_errors():
            owner = self.folder / "owner"
            if not owner.exists() or owner.read_text() != self._owner:
                raise SupersededError(f"{self.folder.name}: another process continues this trial, so this one stops")

    def _save_progress(self, training: Training, terms: dict[str, Any]) -> None:
        self.evaluations.append(self._progress(terms))
        try:
            save_checkpoint(self.folder, {**training.state_dict(), "evaluations": self.evaluations})
        except (OSError, RuntimeError) as error:  # to continue without a checkpoint is better than to stop
            self.notes.append(f"epoch {training.epoch}: no checkpoint was written ({first_line(error)})")

    def _finish(self, training: Training, terms: dict[str, Any]) -> dict[str, Any]:
        """Evaluate the trained network at every sparsity; write its pruned checkpoints, figures and result."""
        config, task, target = self.config, training.task, self.config.target_sparsity
        evaluation = training.evaluate(config.levels)
        test = training.evaluate(config.levels, "test").metrics if config.read_test else None
        to_keep = {"none": (), "target": (target,), "all": config.levels}[self.keep]
        networks = training.networks((0.0, target, *to_keep))
        layers = describe_layers(task, networks[target], evaluation.masks[target])
        self._note_layers(layers)
        shutil.rmtree(self.folder / "pruned", ignore_errors=True)  # a killed process may have left some
        for level in to_keep:
            self._save_pruned(task, level, networks[level], evaluation, test)
        diagnostics = diagnose(task, networks[0.0], config, evaluation)
        diagnostics |= training.penalty_ratio.describe() | training.regularizer.diagnostics()
        collapsed = collapse(config, evaluation.metrics)
        if collapsed["collapsed"]:
            which = "dense network" if evaluation.metrics[0.0]["collapsed"] else f"network pruned to {target:g}"
            self.warnings.append(f"collapsed: the {which} predicts the same for every example of the validation split")
        self._illustrate(task, networks[0.0], apply_pruning(task, networks[target], evaluation, target))
        return self._end(
            Status.FINISHED,
            "",
            terms | objectives(task, config, evaluation.metrics),
            objective=task.objective,
            curve=[{"sparsity": level, **values} for level, values in evaluation.metrics.items()],
            test=[{"sparsity": level, **values} for level, values in test.items()] if test else None,
            diagnostics=diagnostics,
            layers=layers,
            **collapsed,
        )

    def _note_layers(self, layers: list[dict[str, Any]]) -> None:
        """Note which layers lose all of their weights, and which ones an n:m scope cannot prune."""
        target = self.config.target_sparsity
        self.notes += [
            f"{layer['name']}: all of its {layer['num_weights']} weights are pruned at {target:g}"
            for layer in layers
            if layer["num_kept"] == 0
        ]
        if ":" in self.config.scope:
            self.notes += [
                f"{layer['name']}: not pruned at {self.config.scope}, because the input channels of its shape "
                f"{tuple(layer['shape'])} cannot be divided into groups of {self.config.scope.partition(':')[2]}"
                for layer in layers
                if layer["num_kept"] == layer["num_weights"]
            ]

    def _save_pruned(
        self,
        task: Task,
        level: float,
        network: nn.Module,
        evaluation: Evaluation,
        test: dict[float, dict[str, float]] | None,
    ) -> None:
        description = {
            "target_sparsity": level,
            "validation": evaluation.metrics[level],
            "trial": self.config.key,
            "trial_config": self.config.model_dump(mode="json"),
        }
        if test is not None:
            description["test"] = test[level]
        folder, masks = self.folder / "pruned" / f"{level:g}", evaluation.masks[level]
        with storage_errors():
            save_pruned(folder, task, network, masks, description, shifted=evaluation.shifted[level])

    def _illustrate(self, task: Task, dense: nn.Module, pruned: nn.Module) -> None:
        """Write all of the task's figures or, if one fails, none. A failure becomes a note; the trial goes on."""
        shutil.rmtree(self.folder / "figures", ignore_errors=True)
        partial = self.folder / f"figures.{os.getpid()}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        try:
            task.illustrate({0.0: dense.eval(), self.config.target_sparsity: pruned.eval()}, partial)
            if any(partial.iterdir()):
                partial.rename(self.folder / "figures")
        except Exception as error:
            self.notes.append(f"figures: could not be drawn ({one_line(error)})")
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _end(self, status: Status, reason: str, terms: dict[str, Any], **details: Any) -> dict[str, Any]:
        """Write result.json and return its report, or one with STORAGE_FAILED if it cannot be written."""
        if self.training is not None:
            details = {"diagnostics": self.training.penalty_ratio.describe(), **details}
            if warning := self.training.penalty_warning():
                self.warnings.append(warning)
        result = {
            "report": self._report(status, reason, terms),
            "config": self.config.model_dump(mode="json"),
            "evaluations": self.evaluations,
            "notes": [*self.notes, *self.warnings],
            "warnings": self.warnings,
            **details,
        }
        text = json.dumps(result, allow_nan=False)
        try:
            with storage_errors():
                write_atomically(self.folder / RESULT, lambda path: path.write_text(text))
        except StorageError as error:
            return self._report(Status.STORAGE_FAILED, str(error), terms)
        remove_checkpoints(self.folder)
        (self.folder / "owner").unlink(missing_ok=True)
        return result["report"]

    def _report(self, status: Status, reason: str, terms: dict[str, Any]) -> dict[str, Any]:
        return {**self._progress(terms), "status": status, "reason": reason}

    def _progress(self, terms: dict[str, Any]) -> dict[str, Any]:
        """Epoch, seconds and the values of an evaluation; None for values that are unknown."""
        name = sparsity.load("trainables.tasks", self.config.task).objective
        keys = ("loss", "penalty", "lr", f"{name}_dense", f"{name}_pruned")
        epoch, seconds = (self.training.epoch, self.training.seconds) if self.training else (0, 0.0)
        more = {"weights_left": terms["weights_left"]} if "weights_left" in terms else {}
        return {"epoch": epoch, "seconds": seconds, **{key: terms.get(key) for key in keys}, **more}


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn an error of the operating system into StorageError. safetensors has a type of its own for them."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the trial's files cannot be written: {first_line(error)}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU or the host ran out of memory; torch raises a plain RuntimeError for the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
