"""Recording a sweep while it runs."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.records.events import EventLog
from service.records.lock import SweepLock
from service.records.passwords import hide_passwords
from service.records.software import software_versions
from service.records.state import EVENTS, FORMAT, State, flatten, refuse_unreadable
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
        identity: What makes it this sweep and no other, as JSON values (`Sweep.identity()`).

    Attributes:
        state: The state of the sweep, up to date after each call.
        log: The event log.

    Raises:
        ValueError: If another process runs the sweep, or the folder holds another sweep or records of another version.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        refuse_unreadable(folder)
        self._lock = SweepLock(folder)
        self.log = EventLog(folder / EVENTS)
        try:
            self.state = State.read(folder)
            self._check_identity(json.loads(json.dumps(identity)))
        except BaseException:
            self.close()
            raise

    def _check_identity(self, identity: dict[str, Any]) -> None:
        if not self.state.header:
            self._record("sweep", format=FORMAT, sweep_id=uuid4().hex, identity=identity, software=software_versions())
        elif self.state.header["identity"] != identity:
            raise ValueError(f"{self.folder}: {explain_difference(self.state.header['identity'], identity)}")

    def close(self) -> None:
        """Release the sweep for other processes."""
        self.log.close()
        self._lock.release()

    def _record(self, event: str, **fields: Any) -> None:
        self.state.apply(self.log.append(event, **fields))

    # ---- the sweep -------------------------------------------------------------------------------------------------

    def run_started(self, command: Sequence[str] | None, *, num_search: int, num_confirm: int) -> None:
        """Record that this process runs the sweep.

        Args:
            command: The command line, None if the sweep was started from Python. Its passwords are not recorded.
            num_search: Number of trials of the search.
            num_confirm: Largest number of trials of the confirmation.
        """
        words = None if command is None else [hide_passwords(word) for word in command]
        place = {"cwd": str(Path.cwd()), "host": platform.node(), "process": os.getpid()}
        self._record("run", command=words, num_search=num_search, num_confirm=num_confirm, **place)

    def search_started(self, *, initial_points: Mapping[str, Any], num_parallel: int) -> None:
        """Record what the search depends on beside its configuration, so that a continued search proposes the same.

        Args:
            initial_points: For each arm, the values of other sweeps that it tries first.
            num_parallel: Number of trials that run at once.
        """
        self._record("search_state", initial_points=initial_points, num_parallel=num_parallel)

    def summarized(self, summary: Mapping[str, Any]) -> None:
        """Record the sweep's result (see `service.records.summary`) if it differs from the last one recorded."""
        if json.loads(json.dumps(summary)) != self.state.summary:
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

    def trial_ended(self, key: str, *, lost: str = "", wait: float = RESULT_TIMEOUT) -> None:
        """Record the result that a trial left in its folder, unless its end is recorded already.

        Args:
            key: The trial's key.
            lost: Why the trial left no result, if that is known. A result that is there counts all the same.
            wait: Seconds to wait until a result that another host wrote is visible.
        """
        if self.state.trials[key].done:
            return
        result = self._wait_for_result(key, 0.0 if lost else wait) or self._lost_result(key, lost)
        for report in result.get("evaluations", ()):  # a driver that was killed may not have recorded the last ones
            self.trial_evaluated(key, report)
        self._record(
            "end",
            trial=key,
            status=result["report"]["status"],
            reason=result["report"]["reason"],
            report=result["report"],
            curve=result.get("curve", []),
            test=result.get("test"),
            diagnostics=result.get("diagnostics", {}),
            notes=result["notes"],
            warnings=result.get("warnings", []),
            collapsed=result.get("collapsed", False),
            collapsed_from=result.get("collapsed_from"),
            objective=result.get("objective", "acc"),
        )

    def _wait_for_result(self, key: str, seconds: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + seconds
        while (result := read_result(self.state.trial_folder(key))) is None and time.monotonic() < deadline:
            time.sleep(0.2)
        return result

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
        keys = [key for key, trial in self.state.trials.items() if trial.status in statuses]
        for key in keys:
            # In this order: if the process dies in between, the trial still has a status that `retry` selects.
            (self.state.trial_folder(key) / "result.json").unlink(missing_ok=True)
            self._record("retry", trial=key)
        return keys


def explain_difference(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    a, b = flatten(recorded), flatten(given)
    changed = [f"{name}: {a.get(name)} there, {b.get(name)} here" for name in {**a, **b} if a.get(name) != b.get(name)]
    return (
        f"must be of the same sweep, holds one with another configuration ({'; '.join(changed[:4])}"
        f"{', ...' if len(changed) > 4 else ''}): choose another --name or --runs, or remove the folder"
    )
