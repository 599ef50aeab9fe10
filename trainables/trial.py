"""The adapter to Ray Tune: it passes configurations in and reports out. The work is in `trainables.runner`."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from trainables.config import TrialConfig
from trainables.loop import load_task
from trainables.malloc import keep_freed_memory
from trainables.own_code import sources_of, use_sources
from trainables.result import Status
from trainables.runner import TrialRunner

__all__ = ["Trial"]


class Trial(tune.Trainable):
    """An actor that trains one configuration after another (`reuse_actors`), so that imports and CUDA start only once.

    Checkpoints are written by `TrialRunner` into the trial's folder, whose name is the configuration's key: a repeated
    or resumed trial finds them on any host. Tune's own checkpoints are switched off.
    """

    runner: TrialRunner | None

    def setup(
        self,
        config: Mapping[str, Any],
        data: Any = None,
        folder: str = "",
        keep: str = "target",
        sizes: bool = True,
        train: bool = True,
    ) -> None:
        """Prepare the first configuration.

        Args:
            config: The fields of a `TrialConfig`.
            data: The task's arrays, shared read-only in the node's memory by `tune.with_parameters`.
            folder: The folder of the sweep's trials; each trial has its own in it.
            keep: See `TrialRunner`.
            sizes: See `TrialRunner`.
            train: See `TrialRunner`.
        """
        self.shared: dict[str, Any] = {"data": data, "folder": folder, "keep": keep, "sizes": sizes, "train": train}
        if not Path(folder).is_dir():  # on a host that joined after the sweep's checks
            raise RuntimeError(
                f"{platform.node()} does not see the trials' folder {folder}: mount the shared storage there"
            )
        self._begin(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation.

        Returns:
            `key`, `status`, `reason`, `epoch` and `done`, and while the trial runs `evaluation`, its numbers. The
            numbers of a trial that has ended are in its result.json.
        """
        assert self.runner is not None
        report = self.runner.advance()
        sent = {"key": self.key, **{name: report.pop(name) for name in ("status", "reason")}, "epoch": report["epoch"]}
        if sent["status"] == Status.RUNNING:
            return {**sent, "done": False, "evaluation": report}
        self.runner = None  # a reused actor waits without the model
        return {**sent, "done": True}

    def _begin(self, config: Mapping[str, Any]) -> None:
        resources = ray.get_runtime_context().get_assigned_resources()
        torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
        device = "cuda" if resources.get("GPU", 0) > 0 else "cpu"
        if device == "cpu":
            keep_freed_memory()
        else:
            torch.cuda.empty_cache()  # the previous trial may have left its own
            if resources["GPU"] < 1:
                torch.cuda.set_per_process_memory_fraction(resources["GPU"])
        trial_config = TrialConfig.model_validate(config)
        use_sources(sources_of(trial_config), Path(self.shared["folder"]).parent)
        self.key = trial_config.key
        self.runner = TrialRunner(
            trial_config,
            Path(self.shared["folder"]) / trial_config.key,
            lambda: load_task(trial_config, data=self.shared["data"], device=device),
            keep=self.shared["keep"],
            sizes=self.shared["sizes"],
            train=self.shared["train"],
        )
