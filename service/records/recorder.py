"""Recording a sweep while it runs."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from service.records.events import EventLog
from service.records.lock import SweepLock
from service.records.passwords import hide_passwords
from service.records.software import software_versions
from service.records.state import EVENTS, FORMAT, State, TrialRecord, refuse_unreadable
from trainables.result import Status, read_result

__all__ = ["RETRIED", "Recorder"]

# What `retry` runs again by default. A diverged trial would diverge again.
RETRIED = (Status.ERROR, Status.LOST, Status.OUT_OF_MEMORY)

RESULT_TIMEOUT = 20.0  # seconds until a result that another host wrote is visible here: NFS caches folders


class Recorder:
    """The only writer of a sweep's records: holds the lock, the event log and the state.

    Each method that records something appends one event and applies it to the state. Recording the same thing twice
    has no effect, so a continued sweep may report what is already there.

    Args:
        folder: The sweep's folder; created if it does not exist.

    Attributes:
        state: The state of the sweep, up to date after each call.
        log: The event log.

    Raises:
        ValueError: If another process runs the sweep, or the folder holds records of another version.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        refuse_unreadable(folder)
        self._lock = SweepLock(folder)
        self.log = EventLog(folder / EVENTS)
        try:
            self.state = State.read(folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the sweep for other processes."""
        self.log.close()
        self._lock.release()

    def _record(self, event: str, **fields: Any) -> None:
        self.state.apply(self.log.append(event, **fields))

    # ---- the sweep -------------------------------------------------------------------------------------------------

    def sweep_begun(self, identity: Mapping[str, Any], *, data: str) -> None:
        """Record a new sweep.

        Args:
            identity: What decides its trials, as JSON values (`SweepSpec.identity`).
            data: Fingerprint of the data that the trials are trained on.
        """
        software = software_versions()
        self._record("sweep", format=FORMAT, sweep_id=uuid4().hex, identity=identity, software=software, data=data)

    def sweep_changed(self, identity: Mapping[str, Any], *, left_out: Sequence[str]) -> None:
        """Record that the sweep has another identity from now on.

        Args:
            identity: As in `sweep_begun`.
            left_out: The keys of the trials that do not fit it. They stay in the records, but not in the tables.
        """
        self._record("change", identity=identity, left_out=list(left_out), software=software_versions())

    def run_started(
        self, command: Sequence[str] | None, *, num_search: int, num_confirm: int, data_root: Path | None = None
    ) -> None:
        """Record that this process runs the sweep.

        Args:
            command: The command line, None if the sweep was started from Python. Its passwords are not recorded.
            num_search: Number of trials of the search.
            num_confirm: Largest number of trials of the confirmation.
            data_root: The folder of the dataset, if it was given.
        """
        words = None if command is None else [hide_passwords(word) for word in command]
        place: dict[str, Any] = {"cwd": str(Path.cwd()), "host": platform.node(), "process": os.getpid()}
        place["data_root"] = None if data_root is None else str(data_root.resolve())
        self._record("run", command=words, num_search=num_search, num_confirm=num_confirm, **place)

    def search_started(
        self,
        *,
        initial_points: Mapping[str, Any],
        num_parallel: int,
        adopted: Mapping[str, Any] = MappingProxyType({}),
        adopted_from: Sequence[str] = (),
    ) -> None:
        """Record what the search depends on beside its configuration, so that a continued search proposes the same.

        The name of its studies in a database contains the sweep's id, so that no other sweep continues them.

        Args:
            initial_points: For each arm, the values of other sweeps that it tries first.
            num_parallel: Number of trials that run at once.
            adopted: For each arm, the values of earlier trials that fit and count as its first configurations.
            adopted_from: The names of the other sweeps that trials are taken from.
        """
        self._record(
            "search_state",
            study_name=f"{self.folder.name} {self.state.header['sweep_id']}",
            initial_points=initial_points,
            num_parallel=num_parallel,
            adopted=dict(adopted),
            adopted_from=list(adopted_from),
        )

    def summarized(self, summary: Mapping[str, Any]) -> None:
        """Record the sweep's result (see `service.records.summary`) if the records do not state it already."""
        same = json.loads(json.dumps(summary)) == self.state.summary
        if not same or summary.get("complete", False) != self.state.complete:
            self._record("summary", summary=summary)

    # ---- its trials ------------------------------------------------------------------------------------------------

    def trial_started(self, key: str, *, phase: str, arm: str, number: int, config: Mapping[str, Any]) -> None:
        """Record a new trial, or a waiting one that starts again.

        Args:
            key: The trial's key, the hash of its configuration.
            phase: "search" or "confirm".
            arm: The optimizer with the regularizer, e.g. "sam + wcr".
            number: The number of its configuration in the arm's search.
            config: The trial's `TrialConfig` as JSON values.
        """
        trial = self.state.trials.get(key)
        if trial is None or trial.status == Status.WAITING:
            self._record("start", trial=key, phase=phase, arm=arm, number=number, config=config)

    def trial_evaluated(self, key: str, report: Mapping[str, Any]) -> None:
        """Record an evaluation during training; a trial that continues from a checkpoint repeats some of them."""
        if report["epoch"] not in {recorded["epoch"] for recorded in self.state.trials[key].evaluations}:
            self._record("evaluation", trial=key, report=report)

    def trial_ended(
        self,
        key: str,
        *,
        lost: str = "",
        failure: tuple[str, str] | None = None,
        is_complete: Callable[[Mapping[str, Any]], bool] = bool,
        wait: float = RESULT_TIMEOUT,
    ) -> None:
        """Record the result that a trial left in its folder, unless it is recorded already.

        Args:
            key: The trial's key.
            lost: Why the trial left no result, if that is known. A result that is there counts all the same.
            failure: Status and reason if a trial that had ended before could not be evaluated again.
            is_complete: Whether a result is the one that is waited for.
            wait: Seconds to wait until a result that another host wrote is visible.
        """
        trial = self.state.trials[key]
        failed = (Status.LOST, lost) if lost else failure
        seconds = 0.0 if lost or (trial.done and failure) else wait
        result = self._wait_for_result(key, bool if failure else is_complete, seconds)
        if trial.done and failed and not (result and is_complete(result)):
            self._record("pruned", trial=key, status=failed[0], reason=failed[1])
            return
        if trial.done and (result is None or is_recorded(result, trial)):
            return
        kind = "pruned" if trial.done else "end"
        result = result or self._lost_result(key, lost)
        for report in result.get("evaluations", ()):  # a driver that was killed may not have recorded the last ones
            self.trial_evaluated(key, report)
        self._record(
            kind,
            trial=key,
            status=result["report"]["status"],
            reason=result["report"]["reason"],
            report=result["report"],
            pruned=result.get("pruned", []),
            diagnostics=result.get("diagnostics", {}),
            num_prunable=sum(layer["num_weights"] for layer in result.get("layers") or ()) or None,
            notes=result["notes"],
            warnings=result.get("warnings", []),
            objective=result.get("objective", "acc"),
            target_sparsity=result["config"]["target_sparsity"] if "config" in result else None,
        )

    def _wait_for_result(
        self, key: str, is_complete: Callable[[Mapping[str, Any]], bool], seconds: float
    ) -> dict[str, Any] | None:
        deadline = time.monotonic() + seconds
        while True:
            result = read_result(self.state.trial_folder(key))
            if (result is not None and is_complete(result)) or time.monotonic() >= deadline:
                return result
            time.sleep(0.2)

    def _lost_result(self, key: str, reason: str) -> dict[str, Any]:
        evaluations = self.state.trials[key].evaluations
        reason = reason or f"it ended without a visible result in {self.state.trial_folder(key)}"
        last = evaluations[-1] if evaluations else {}
        return {"report": {**last, "status": Status.LOST, "reason": reason}, "notes": []}

    def retry(self, statuses: Sequence[str] = RETRIED) -> list[str]:
        """Discard the results of trials with one of these statuses, so that the sweep runs them again.

        Returns:
            The keys of these trials.
        """
        keys = [key for key, trial in self.state.trials.items() if trial.status in statuses and not trial.left_out]
        for key in keys:
            # In this order: if the process dies in between, the trial still has a status that `retry` selects.
            (self.state.trial_folder(key) / "result.json").unlink(missing_ok=True)
            self._record("retry", trial=key)
        return keys


def is_recorded(result: Mapping[str, Any], trial: TrialRecord) -> bool:
    """Whether the state of a trial that has ended is that of its result."""
    if result.get("pruned", []) != list(trial.pruned.values()):
        return False
    return "config" not in result or result["config"]["target_sparsity"] == trial.target_sparsity
