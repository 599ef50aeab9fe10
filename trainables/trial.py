"""Ray's adapter, and nothing else: a configuration in, a evaluation's report out. The work is in resumable.py."""

import os
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
from trainables.runner import ResumableTrial

__all__ = ["Trial"]


class Trial(tune.Trainable):
    """An actor that trains one configuration after another (`reuse_actors`): imports and CUDA start only once.

    setup takes, beside a configuration, what `tune.with_parameters` shares: data (the task's arrays, read-only in the
    node's memory) and folder (the sweep's trials; each has its own below). Checkpoints are ours, in that folder, keyed
    by the configuration: a retry, a resume or another host finds them there, and Tune's own are switched off.
    """

    def setup(self, config: Mapping[str, Any], data: Any = None, folder: str = "", keep: str = "target") -> None:
        self.shared = {"data": data, "folder": folder, "keep": keep}
        if not Path(folder).is_dir():  # on a host that joined after the sweep's checks
            raise RuntimeError(
                f"{platform.node()} does not see the trials' folder {folder}: mount the shared storage there"
            )
        self._begin(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: Mapping[str, Any]) -> None:
        resources = ray.get_runtime_context().get_assigned_resources()
        torch.set_num_threads(max(1, int(resources.get("CPU", 1))))
        device = "cuda" if resources.get("GPU", 0) > 0 else "cpu"
        if device == "cpu":
            keep_freed_memory()
        else:
            torch.cuda.empty_cache()  # the trial before this one may have left its own
            if resources["GPU"] < 1:
                torch.cuda.set_per_process_memory_fraction(resources["GPU"])
        trial_config = TrialConfig.model_validate(config)
        self.key = trial_config.key
        self.trial: ResumableTrial | None = ResumableTrial(
            trial_config,
            Path(self.shared["folder"]) / trial_config.key,
            lambda: load_task(trial_config, data=self.shared["data"], device=device),
            keep=self.shared["keep"],
        )

    def step(self) -> dict[str, Any]:
        assert self.trial is not None
        report = self.trial.advance()
        done = report["status"] != "running"
        if done:
            self.trial = None  # a reused actor waits without the model
        return {**report, "key": self.key, "done": done, "pid": os.getpid()}
