"""Training a recorded trial again, and comparing what comes out."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import sparsity
from service.records.state import State, TrialRecord
from trainables.config import TrialConfig
from trainables.data.fingerprint import fingerprint
from trainables.loop import load_task
from trainables.malloc import keep_freed_memory
from trainables.own_code import sources_of, use_sources
from trainables.pruning_method import PruningMethod
from trainables.result import Status, read_result
from trainables.runner import TrialRunner

__all__ = ["differences", "repeat"]


def repeat(
    state: State, keys: list[str], *, data_root: Path | None, num_threads: int
) -> Iterator[tuple[str, list[str]]]:
    """Train trials of a sweep again in this process, without Ray and without changing the records.

    Args:
        state: The records.
        keys: The trials.
        data_root: The folder of the dataset; None if it is downloaded or generated.
        num_threads: Threads of a trial (`--cpus` of the sweep): the last bits depend on them.

    Yields:
        The key of each trial, with its `differences`.

    Raises:
        ValueError: If a key is not that of a finished trial, or the data are others than the sweep's.
    """
    for key in keys:
        if key not in state.trials or state.trials[key].status != Status.FINISHED:
            raise ValueError(f"repeat: trials must be finished ones of {state.folder.name}, got {key!r}")
    configs = {key: everything_measured(state.trials[key]) for key in keys}
    torch.set_num_threads(num_threads)
    keep_freed_memory()
    data = None
    for key, config in configs.items():
        use_sources(sources_of(config), state.folder)
        if data is None:
            root = str(data_root) if data_root else None
            data = sparsity.load("trainables.tasks", config.task).load(config, root)
            if (found := fingerprint(data)) != state.header["data"]:
                raise ValueError(
                    f"data: must be those of the sweep (fingerprint {state.header['data']}), got others ({found}): "
                    "give the right --data-root"
                )
        yield key, differences(state.trials[key], train_again(config, data))


def everything_measured(trial: TrialRecord) -> TrialConfig:
    """The configuration of a trial with every pruning method and sparsity that it was measured with since."""
    methods = [PruningMethod(**entry["method"]) for entry in trial.pruned.values()]
    levels = {row["sparsity"] for entry in trial.pruned.values() for row in entry["curve"]}
    fields = trial.config | {"more_pruning": methods[1:], "target_sparsity": trial.target_sparsity} | dict(methods[0])
    fields["sparsities"] = () if methods[0].only_level is not None else sorted(levels)
    return TrialConfig.model_validate(fields)


def train_again(config: TrialConfig, data: Any) -> dict[str, Any]:
    """The result of the trial, trained in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="repeat-") as folder:
        runner = TrialRunner(config, Path(folder) / "trial", lambda: load_task(config, data=data), keep="none")
        while (report := runner.advance())["status"] == Status.RUNNING:
            pass
        return read_result(Path(folder) / "trial") or {"report": report}


def differences(trial: TrialRecord, result: Mapping[str, Any]) -> list[str]:
    """Each number that differs from the records: the metrics after pruning, by method, split and sparsity."""
    if result["report"]["status"] != trial.status:
        return [f"status: {trial.status} recorded, {result['report']['status']} now ({result['report']['reason']})"]
    now = {entry["label"]: entry for entry in result["pruned"]}
    found = []
    for label, entry in trial.pruned.items():
        for split in ("curve", "test"):
            rows = {row["sparsity"]: row for row in (now.get(label) or {}).get(split) or ()}
            for row in entry.get(split) or ():
                again = rows.get(row["sparsity"], {})
                found += [
                    f"{label}, {'validation' if split == 'curve' else split}, sparsity {row['sparsity']:g}: {name} "
                    f"{value!r} recorded, {again.get(name)!r} now"
                    for name, value in row.items()
                    if again.get(name) != value
                ]
    return found
