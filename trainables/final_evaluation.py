"""The evaluation after training: prune by every method to every sparsity, measure, and write checkpoints."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from trainables.config import TrialConfig
from trainables.errors import one_line
from trainables.files import storage_errors
from trainables.pruning import (
    Evaluation,
    Prunable,
    apply_pruning,
    describe_layers,
    diagnose,
    save_pruned,
    shrunk_sizes,
)
from trainables.pruning_method import PruningMethod, folder_of
from trainables.result import Status

__all__ = ["KEEP", "FinalEvaluation", "missing_levels", "unmeasured"]

KEEP = ("target", "all", "pruned", "none")


def missing_levels(config: TrialConfig, result: Mapping[str, Any]) -> list[tuple[PruningMethod, tuple[float, ...]]]:
    """The pruning methods that a trial's result lacks, with the sparsities at which it lacks them.

    The first method lacks all of them if another method or target sparsity decided the objective, because the layers,
    figures and checkpoint must then be made again. Everything is missing without a result, and nothing if it failed.
    """
    if not result or result["report"]["status"] != Status.FINISHED:
        return [] if result else [(method, config.pruned_by(method).levels) for method in config.pruning]
    curves = {entry["label"]: entry["curve"] for entry in result["pruned"]}
    decided = result["pruned"][0]["label"], result["config"]["target_sparsity"]
    if decided != (config.pruning[0].label, config.target_sparsity):
        curves[config.pruning[0].label] = []
    left = unmeasured({method.label: config.pruned_by(method).levels for method in config.pruning}, curves)
    return [(method, left[method.label]) for method in config.pruning if method.label in left]


def unmeasured(
    levels: Mapping[str, Sequence[float]], curves: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, tuple[float, ...]]:
    """The sparsities that each pruning method's curve lacks; methods that lack none are left out.

    Args:
        levels: The sparsities asked for, by the method's label.
        curves: The rows that were measured, by the method's label.
    """
    left = {}
    for label, asked in levels.items():
        measured = {row["sparsity"] for row in curves.get(label, ())}
        left[label] = tuple(level for level in asked if level not in measured)
    return {label: missing for label, missing in left.items() if missing}


class FinalEvaluation:
    """Prunes a trained network by every method of a configuration, measures it, and writes its checkpoints.

    Args:
        config: The configuration.
        folder: The trial's folder.
        trained: The trained network, or the networks of a multi-round pruning schedule.
        keep: Which checkpoints to write: of the first method at the target sparsity ("target", "pruned"), of every
            method at every sparsity ("all"), or "none".
        sizes: Whether to measure the sizes of the pruned networks after shrinking.

    Attributes:
        notes: Lines for the trial's record.
        warnings: Lines that cast doubt on its numbers.
    """

    def __init__(self, config: TrialConfig, folder: Path, trained: Prunable, keep: str, *, sizes: bool = True):
        self.config, self.folder, self.trained, self.keep, self.sizes = config, folder, trained, keep, sizes
        self.task = trained.task
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def run(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate what a result lacks.

        Args:
            result: The trial's result so far; empty if there is none.

        Returns:
            `pruned`: for each method its `label`, its fields (`method`), and its metrics by sparsity on validation
            (`curve`) and, if the configuration reads it, on test (else None). The first method comes first, and methods
            that were measured earlier come last. If the first method or the target is new, it
            also has `layers` (of the network pruned to the target sparsity) and `diagnostics`.
        """
        config, details = self.config, {}
        first = config.pruning[0]
        earlier = {entry["label"]: entry for entry in result.get("pruned", ())}
        entries = {method.label: earlier.get(method.label, new_entry(method)) for method in config.pruning} | earlier
        for method, levels in missing_levels(config, result):
            pruned_by = config.pruned_by(method)
            evaluation = self.trained.evaluate(levels, config=pruned_by)
            test = self._test(evaluation) if config.read_test else None
            if self.sizes:
                self._add_sizes(evaluation, test)
            entry = entries[method.label]
            entry["curve"] = merge(entry["curve"], evaluation.metrics)
            entry["test"] = merge(entry["test"] or [], test) if test is not None else None
            if method == first and {0.0, config.target_sparsity} <= set(levels):
                details = self._describe(evaluation)
                with storage_errors():
                    self._remove_checkpoints(next(iter(earlier), ""))
            with storage_errors():
                self._save(method, evaluation, test)
        labels = [method.label for method in config.pruning]
        return {"pruned": [*(entries.pop(label) for label in labels), *entries.values()], **details}

    def _test(self, evaluation: Evaluation) -> dict[float, dict[str, float]]:
        """The metrics of the same pruned networks on the test split, by sparsity."""
        metrics = {}
        for level, network in self.trained.networks(evaluation.metrics).items():
            metrics[level] = self.task.evaluate(apply_pruning(self.task, network, evaluation, level), "test")
            if "weights_left" in evaluation.metrics[level]:
                metrics[level]["weights_left"] = evaluation.metrics[level]["weights_left"]
        return metrics

    def _add_sizes(self, evaluation: Evaluation, test: dict[float, dict[str, float]] | None) -> None:
        """Add the sizes after shrinking to the metrics of both splits. If that fails, a note says so."""
        try:
            sizes = shrunk_sizes(self.task, self.trained.networks(evaluation.metrics), evaluation)
        except Exception as error:  # a network that can be trained and pruned need not be one that can be traced
            self.notes.append(f"macs: could not be counted after shrinking ({one_line(error)})")
            return
        for level, size in sizes.items():
            for metrics in (evaluation.metrics, *([test] if test is not None else [])):
                metrics[level] |= size

    def _remove_checkpoints(self, before: str) -> None:
        """Make room for the first method's checkpoints.

        Args:
            before: The label of the method that was the first one before. With `keep` "all" its checkpoints stay, in a
                folder of its own.
        """
        pruned, first = self.folder / "pruned", self.config.pruning[0].label
        shutil.rmtree(pruned / folder_of(first), ignore_errors=True)
        for path in pruned.glob("*"):
            if path.name[0].isalpha():  # the folder of another method, named by its label
                continue
            if self.keep == "all" and before not in ("", first) and not path.name.endswith(".partial"):
                (pruned / folder_of(before)).mkdir(exist_ok=True)
                path.rename(pruned / folder_of(before) / path.name)
            else:
                shutil.rmtree(path, ignore_errors=True)

    def _describe(self, evaluation: Evaluation) -> dict[str, Any]:
        """The layers, diagnostics and figures of the network pruned to the target sparsity by the first method."""
        config, task, target = self.config, self.task, self.config.target_sparsity
        networks = self.trained.networks((0.0, target))
        layers = describe_layers(task, networks[target], evaluation.masks[target])
        self._note_layers(layers)
        collapsed = [level for level in (0.0, target) if evaluation.metrics[level]["collapsed"]]
        if collapsed:
            which = f"network pruned to {collapsed[0]:g}" if collapsed[0] else "dense network"
            self.warnings.append(f"collapsed: the {which} predicts the same for every example of the validation split")
        diagnostics = diagnose(task, networks[0.0], config, evaluation)
        self._illustrate(networks[0.0], apply_pruning(task, networks[target], evaluation, target))
        return {"layers": layers, "diagnostics": diagnostics}

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

    def _save(self, method: PruningMethod, evaluation: Evaluation, test: Mapping[float, Mapping] | None) -> None:
        """Write the checkpoints of one method that `keep` asks for."""
        config, is_first = self.config, method == self.config.pruning[0]
        levels = list(evaluation.metrics) if self.keep == "all" else [config.target_sparsity] * is_first
        folder = self.folder / "pruned" if is_first else self.folder / "pruned" / folder_of(method.label)
        for level in levels if self.keep != "none" else ():
            if level not in evaluation.metrics:
                continue
            description = {
                "target_sparsity": level,
                "pruning": method.model_dump(mode="json"),
                "validation": evaluation.metrics[level],
                **({"test": test[level]} if test is not None else {}),
                "trial": config.key,
                "trial_config": config.model_dump(mode="json"),
            }
            network, masks = self.trained.networks((level,))[level], evaluation.masks[level]
            shifted = evaluation.shifted[level]
            save_pruned(folder / f"{level:g}", self.task, network, masks, description, shifted=shifted)

    def _illustrate(self, dense: nn.Module, pruned: nn.Module) -> None:
        """Write all of the task's figures or, if one fails, none. A failure becomes a note; the trial goes on."""
        shutil.rmtree(self.folder / "figures", ignore_errors=True)
        partial = self.folder / f"figures.{os.getpid()}.partial"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            self.task.illustrate({0.0: dense.eval(), self.config.target_sparsity: pruned.eval()}, partial)
            if any(partial.iterdir()):
                partial.rename(self.folder / "figures")
        except Exception as error:
            self.notes.append(f"figures: could not be drawn ({one_line(error)})")
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def new_entry(method: PruningMethod) -> dict[str, Any]:
    return {"label": method.label, "method": method.model_dump(mode="json"), "curve": [], "test": None}


def merge(rows: list[dict[str, Any]], metrics: Mapping[float, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Rows of a curve with those of another evaluation, by sparsity; the new ones replace the old ones."""
    old = {row["sparsity"]: row for row in rows}
    new = {level: {"sparsity": level, **values} for level, values in metrics.items()}
    return [row for _, row in sorted((old | new).items())]
