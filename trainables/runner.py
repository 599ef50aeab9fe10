"""A trial in a folder of its own: it continues from the checkpoint there, and leaves its result there.

A trial has two stages. While it trains, the folder holds the last two checkpoints and `owner`, which names the process
that runs it. Then `trained/{model.safetensors,config.json}` holds the trained network, and the final evaluation prunes
and measures it and writes `pruned/0.96/{model.safetensors,config.json}` and `figures/`. `result.json` is written last:
the trial has ended if and only if this file exists. A trial that has ended and is run with further pruning methods or
sparsities loads the trained network and measures only what its result lacks.
"""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

import sparsity
from trainables.checkpoints import LATEST, PREVIOUS, read_checkpoint, remove_checkpoints, save_checkpoint
from trainables.config import TrialConfig
from trainables.errors import first_line, one_line
from trainables.files import StorageError, storage_errors, write_atomically
from trainables.final_evaluation import KEEP, FinalEvaluation, missing_levels
from trainables.loop import Diverged, Training
from trainables.pruning import Prunable, TrainedNetwork, load_trained, objectives, save_trained
from trainables.result import RESULT, Status, read_result
from trainables.task import Task

__all__ = ["KEEP", "TrialRunner"]

KEEP_TRAINED = ("target", "all")


class SupersededError(RuntimeError):
    """Another process has taken over the trial, because this host was unreachable."""


class TrialRunner:
    """Train a configuration in a folder, one evaluation at a time.

    Args:
        config: The configuration.
        folder: The trial's own folder; created if necessary.
        make_task: Creates the task. Called at most once; not called if the trial has already ended.
        keep: Which networks to write. "target": the trained one and the one pruned to the target sparsity. "all": the
            trained one and all pruned ones. "pruned": only the one pruned to the target sparsity. "none": none.
        sizes: Whether to measure the sizes of the pruned networks after shrinking.
        train: Whether a network that is not there may be trained. Else the trial ends with an error.

    Raises:
        ValueError: If `keep` is something else.
    """

    def __init__(
        self,
        config: TrialConfig,
        folder: Path,
        make_task: Callable[[], Task],
        *,
        keep: str = "target",
        sizes: bool = True,
        train: bool = True,
    ):
        if keep not in KEEP:
            raise ValueError(f"keep: must be one of {', '.join(KEEP)}, got {keep!r}")
        self.config, self.folder, self.keep, self.sizes, self.train = config, folder, keep, sizes, train
        self.training: Training | None = None
        self.notes: list[str] = []
        self.warnings: list[str] = []  # notes that cast doubt on the trial's numbers
        # also written to result.json, because a driver that was killed may not have received all of them
        self.evaluations: list[dict[str, Any]] = []
        self._previous: dict[str, Any] = {}  # the result in the folder, if there is one
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
            if not self._previous:
                with storage_errors():
                    self._previous = read_result(self.folder) or {}
            if self._previous and not missing_levels(self.config, self._previous):
                return self._previous["report"]
            if self.training is None and (trained := self._start()):
                return self._finish(*trained)
            assert self.training is not None
            terms = self.training.train_to_evaluation()
            self._check_owner()
            if self.training.finished:
                return self._finish(*self._end_of_training(self.training, terms))
            self._save_progress(self.training, terms)
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

    def _start(self) -> tuple[Prunable, dict[str, Any]] | None:
        """Take the trial over from any other process. Return the trained network and its record if they are there,
        else prepare the training, from the newest checkpoint that can be read."""
        with storage_errors():
            write_atomically(self.folder / "owner", lambda path: path.write_text(self._owner))
        task = self._make_task()
        unreadable = "they were removed"
        try:
            if trained := load_trained(self.folder / "trained", task, self.config):
                return trained
        except (FileNotFoundError, ValueError) as error:
            unreadable = one_line(error)
            self.notes.append(f"trained: could not be read ({unreadable}), so the network is trained again")
        except OSError as error:  # such as a network folder that is away for a moment: the network may be good
            raise StorageError(f"trained: must be files that can be read, got {first_line(error)}") from error
        if not self.train:
            raise FileNotFoundError(f"trained: the trained weights cannot be read ({unreadable}); nothing is trained")
        self.training = Training(task, self.config)
        for name in (LATEST, PREVIOUS):
            path = self.folder / name
            with storage_errors():  # such as a network folder that is away for a moment: the file may be good
                if not path.exists():
                    continue
                content = path.read_bytes()
            try:
                state = read_checkpoint(content)
                self.training.load_state_dict(state)
                self.evaluations = state["evaluations"]
                break
            except Exception as error:  # truncated or altered: use the one before it
                if is_out_of_memory(error):
                    raise
                self.notes.append(f"{name}: could not be read ({one_line(error)}), passed over")
                with storage_errors():
                    path.unlink()  # otherwise the next save would replace the good previous checkpoint by it
                self.training = Training(task, self.config)
        return None

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

    def _end_of_training(self, training: Training, terms: dict[str, Any]) -> tuple[Prunable, dict[str, Any]]:
        """The trained network with the record of its training; both are also written, if they are to be kept."""
        if warning := training.penalty_warning():
            self.warnings.append(warning)
        record = {
            "epoch": training.epoch,
            "seconds": training.seconds,
            "terms": terms,
            "diagnostics": training.penalty_ratio.describe() | training.regularizer.diagnostics(),
            "evaluations": self.evaluations,
            "notes": self.notes,
            "warnings": self.warnings,
        }
        if training.lottery.num_phases > 1:  # pruned during training, so no other method applies
            return training, record
        trained = TrainedNetwork(training.task, training.trained_model(), self.config)
        if self.keep in KEEP_TRAINED:
            with storage_errors():
                save_trained(self.folder / "trained", trained, record)
        return trained, record

    def _finish(self, trained: Prunable, record: dict[str, Any]) -> dict[str, Any]:
        """Measure the trained network by every method and at every sparsity that the result lacks."""
        begin = time.perf_counter()
        previous = self._previous
        self.evaluations, terms = record["evaluations"], dict(record["terms"])
        evaluation = FinalEvaluation(self.config, self.folder, trained, self.keep, sizes=self.sizes)
        found = evaluation.run(previous)
        diagnostics = found.get("diagnostics", previous.get("diagnostics", {})) | record["diagnostics"]
        metrics = {row["sparsity"]: row for row in found["pruned"][0]["curve"]}
        terms |= {"epoch": record["epoch"]} | objectives(trained.task, self.config, metrics)
        terms["seconds"] = previous.get("report", record)["seconds"] + time.perf_counter() - begin
        earlier = previous if "layers" not in found else record  # what was said of another pruned network is dropped
        self.notes = [*dict.fromkeys((*record["notes"], *earlier["notes"], *evaluation.notes))]
        self.warnings = [*dict.fromkeys((*record["warnings"], *earlier["warnings"], *evaluation.warnings))]
        self.notes = [note for note in self.notes if note not in self.warnings]
        return self._end(
            Status.FINISHED,
            "",
            terms,
            objective=trained.task.objective,
            pruned=found["pruned"],
            diagnostics=diagnostics,
            layers=found.get("layers", previous.get("layers")),
        )

    def _end(self, status: Status, reason: str, terms: dict[str, Any], **details: Any) -> dict[str, Any]:
        """Write result.json and return its report, or one with STORAGE_FAILED if it cannot be written.

        A trial that finished before keeps its result if this evaluation fails.
        """
        if self._previous and status != Status.FINISHED:
            return self._report(status, reason, terms)
        if self.training is not None and status != Status.FINISHED:
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
        self._previous = result
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
        epoch, seconds = terms.get("epoch", epoch), terms.get("seconds", seconds)
        more = {"weights_left": terms["weights_left"]} if "weights_left" in terms else {}
        return {"epoch": epoch, "seconds": seconds, **{key: terms.get(key) for key in keys}, **more}


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU or the host ran out of memory; torch raises a plain RuntimeError for the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
