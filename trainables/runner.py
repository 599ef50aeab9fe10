"""A trial in a folder of its own: it goes on from what lies there, and leaves its result there, whole or not at all.

checkpoint.pt, checkpoint.previous.pt: while it runs, the last two evaluations. owner: which process runs it.
pruned/0.96/{model.safetensors,config.json}, figures/: at its end.
result.json: written last; the trial is done if and only if this file is there.
"""

import contextlib
import json
import os
import shutil
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from torch import nn

import sparsity
from trainables.config import TrialConfig
from trainables.loop import Diverged, Training, collapse, objectives
from trainables.pruning import apply_pruning, describe_layers, diagnose, save_pruned
from trainables.task import Task

__all__ = ["KEEP", "ResumableTrial", "StorageError", "SupersededError", "read_result"]

KEEP = ("target", "all", "none")


class StorageError(RuntimeError):
    """The trial's folder takes nothing: full, read-only, gone. A fault of the place, and no outcome of the trial."""


class SupersededError(RuntimeError):
    """Another process has taken the trial over, as this one's host was out of reach."""


def read_result(folder: Path) -> dict | None:
    """The result of a trial that is done, else None. One that cannot be read counts as none: it is computed again."""
    try:
        return json.loads((folder / "result.json").read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """`write` a temporary file beside `path`, then rename it: a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def faults_of_storage() -> Iterator[None]:
    """An error of the operating system within is the storage's, also as safetensors words it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the trial's files cannot be written: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote, unpickling nothing but tensors and plain values. Raises if a byte of it has changed."""
    with zipfile.ZipFile(path) as file:  # torch.save writes checksums; torch.load does not look at them
        if damaged := file.testzip():
            raise ValueError(f"{damaged} does not match its checksum")
    return torch.load(path, map_location="cpu", weights_only=True)


def is_out_of_memory(error: Exception) -> bool:
    """Of the device or of the host, for which torch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


class ResumableTrial:
    """Trains `config` in `folder`, a evaluation at a time. Its end, good or bad, is a result; what is no end of it, a folder
    that cannot be written or a process that was replaced, is an exception.

    keep: which pruned checkpoints stay: that of the target sparsity, of all levels, or none.
    Statuses: "finished"; "diverged", "out_of_memory" (outcomes of the configuration); "error" (a fault of the program).
    """

    def __init__(self, config: TrialConfig, folder: Path, make_task: Callable[[], Task], *, keep: str = "target"):
        if keep not in KEEP:
            raise ValueError(f"keep: must be one of {', '.join(KEEP)}, got {keep!r}")
        self.config, self.folder, self.keep = config, folder, keep
        self.notes: list[str] = []
        self.warnings: list[str] = []  # of the notes those that make the trial's numbers doubtful
        self.evaluations: list[
            dict[str, Any]
        ] = []  # here too: a driver that is killed may not have heard of the last one
        self.owner = uuid4().hex
        self.task: Task | None = None
        self.training: Training | None = None
        self._make_task = make_task

    def advance(self) -> dict[str, Any]:
        """Train to the next evaluation and return its flat report; once done, return the last report again.

        Keys, always all of them: epoch, loss, penalty, lr, <objective>_dense, <objective>_pruned (validation, at the
        target sparsity), seconds, status, reason. Where there is no value it is None.
        Raises StorageError where the folder cannot take the result, and SupersededError once the trial is another's.
        """
        done = read_result(self.folder)
        if done is None:
            done = self._advance()
        return done["report"]

    def _advance(self) -> dict[str, Any]:
        report: dict[str, Any] = {}
        try:
            if self.training is None:
                self._own()
                self.task = self._make_task()
                self.training = Training(self.task, self.config)
                self._restore()
            report.update(self._evaluation())
            if not self.training.finished:
                return {"report": self._report("running", "", report)}
            self._check_owned()
            return self._finish(report)
        except (StorageError, SupersededError):
            raise
        except Diverged as error:
            return self._end("diverged", str(error), report)
        except Exception as error:  # one trial's fault is recorded, the sweep goes on
            if is_out_of_memory(error):
                return self._end("out_of_memory", first_line(error) if str(error) else "out of memory", report)
            return self._end("error", f"{type(error).__name__}: {error}", report, traceback=traceback.format_exc())

    def _own(self) -> None:
        with faults_of_storage():
            write_atomically(self.folder / "owner", lambda path: path.write_text(self.owner))

    def _check_owned(self) -> None:
        """Two processes that write one trial's files would spoil them: the one that began last has them."""
        with faults_of_storage():
            owner = self.folder / "owner"
            if not owner.exists() or owner.read_text() != self.owner:
                raise SupersededError(f"{self.folder.name}: another process goes on with it, this one stops")

    def _evaluation(self) -> dict[str, Any]:
        assert self.training is not None
        terms = self.training.train_to_evaluation()
        if not self.training.finished:
            self._check_owned()
            self.evaluations.append(self._progress(terms))
            try:
                self._checkpoint()
            except (OSError, RuntimeError) as error:  # torch's of a full disk; training on is worth more than stopping
                self.notes.append(f"epoch {self.training.epoch}: no checkpoint was written ({first_line(error)})")
        return terms

    def _progress(self, terms: dict[str, Any]) -> dict[str, Any]:
        name = sparsity.find("trainables.tasks", self.config.task).objective
        keys = ("loss", "penalty", "lr", f"{name}_dense", f"{name}_pruned")
        done = (self.training.epoch, self.training.seconds) if self.training else (0, 0.0)
        more = {"weights_left": terms["weights_left"]} if "weights_left" in terms else {}
        return {"epoch": done[0], "seconds": done[1], **{key: terms.get(key) for key in keys}, **more}

    def _report(self, status: str, reason: str, terms: dict[str, Any]) -> dict[str, Any]:
        return {**self._progress(terms), "status": status, "reason": reason}

    def _finish(self, terms: dict[str, Any]) -> dict[str, Any]:
        assert self.training is not None
        config, task, training = self.config, self.training.task, self.training
        evaluation = training.evaluate(config.levels)
        test = training.evaluate(config.levels, "test").metrics if config.read_test else None
        kept = {"none": (), "target": (config.target_sparsity,), "all": config.levels}[self.keep]
        networks = training.networks((0.0, config.target_sparsity, *kept))
        dense, target = networks[0.0], networks[config.target_sparsity]
        layers = describe_layers(task, target, evaluation.masks[config.target_sparsity])
        self.notes += [
            f"{layer['name']}: all of its {layer['num_weights']} weights are pruned at {config.target_sparsity:g}"
            for layer in layers
            if layer["num_kept"] == 0
        ]
        if ":" in config.scope:
            self.notes += [
                f"{layer['name']}: kept whole at {config.scope}, its shape {tuple(layer['shape'])} has no such groups"
                for layer in layers
                if layer["num_kept"] == layer["num_weights"]
            ]
        shutil.rmtree(self.folder / "pruned", ignore_errors=True)  # what a killed run may have left
        for level in kept:
            description = {
                "target_sparsity": level,
                "validation": evaluation.metrics[level],
                "trial": config.key,
                "trial_config": config.model_dump(mode="json"),
            }
            if test is not None:
                description["test"] = test[level]
            with faults_of_storage():
                save_pruned(
                    self.folder / "pruned" / f"{level:g}",
                    task,
                    networks[level],
                    evaluation.masks[level],
                    description,
                    shifted=evaluation.shifted[level],
                )
        diagnostics = diagnose(task, dense, config, evaluation)
        diagnostics |= training.penalty_ratio.describe() | training.regularizer.diagnostics()
        collapsed = collapse(config, evaluation.metrics)
        if collapsed["collapsed"]:
            dense_too = evaluation.metrics[0.0]["collapsed"]
            which = "dense network" if dense_too else f"network pruned to {config.target_sparsity:g}"
            self.warnings.append(f"collapsed: the {which} predicts the same for every example of the validation split")
        self._illustrate(dense, apply_pruning(task, target, evaluation, config.target_sparsity))
        return self._end(
            "finished",
            "",
            terms | objectives(task, config, evaluation.metrics),
            objective=task.objective,
            curve=[{"sparsity": level, **values} for level, values in evaluation.metrics.items()],
            test=[{"sparsity": level, **values} for level, values in test.items()] if test else None,
            diagnostics=diagnostics,
            layers=layers,
            **collapsed,
        )

    def _illustrate(self, dense: nn.Module, pruned: nn.Module) -> None:
        """The task's figures, whole or not at all; one that cannot be drawn costs a note, not the trial."""
        assert self.task is not None
        shutil.rmtree(self.folder / "figures", ignore_errors=True)
        partial = self.folder / f"figures.{os.getpid()}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        try:
            self.task.illustrate({0.0: dense.eval(), self.config.target_sparsity: pruned.eval()}, partial)
            if any(partial.iterdir()):
                partial.rename(self.folder / "figures")
        except Exception as error:
            self.notes.append(f"figures: could not be drawn ({type(error).__name__}: {error})")
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _end(self, status: str, reason: str, terms: dict[str, Any], **more: Any) -> dict[str, Any]:
        if self.training is not None:
            more = {"diagnostics": self.training.penalty_ratio.describe(), **more}
            if warning := self.training.penalty_warning():
                self.warnings.append(warning)
        result = {
            "report": self._report(status, reason, terms),
            "config": self.config.model_dump(mode="json"),
            "evaluations": self.evaluations,
            "notes": [*self.notes, *self.warnings],
            "warnings": self.warnings,
            **more,
        }
        text = json.dumps(result, allow_nan=False)
        with faults_of_storage():
            write_atomically(self.folder / "result.json", lambda path: path.write_text(text))
        for path in (*self.folder.glob("checkpoint.*"), self.folder / "owner"):  # and what a killed run may have left
            path.unlink(missing_ok=True)
        return result

    def _checkpoint(self) -> None:
        assert self.training is not None
        state = {**self.training.state_dict(), "evaluations": self.evaluations}
        latest = self.folder / "checkpoint.pt"
        if latest.exists():
            os.replace(latest, self.folder / "checkpoint.previous.pt")
        write_atomically(latest, lambda path: torch.save(state, path))

    def _restore(self) -> None:
        """Go on from the newest checkpoint that can be read; say which could not."""
        assert self.training is not None
        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                state = read_checkpoint(path)
                self.training.load_state_dict(state)
                self.evaluations = state["evaluations"]
                return
            except Exception as error:  # truncated or altered: the one before it is as good
                self.notes.append(
                    f"{name}: could not be read ({type(error).__name__}: {first_line(error)}), passed over"
                )
                path.unlink()  # or the next checkpoint would make it the previous one
                self.training = Training(self.training.task, self.config)
