"""Ray Tune's view of a sweep: where its trials come from, and what becomes of their reports and faults."""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from service.records.recorder import Recorder
from service.search.queue import STORAGE_HINT, Next, Proposal, TrialQueue
from service.views.progress import Progress
from trainables.config import TrialConfig
from trainables.final_evaluation import missing_levels
from trainables.result import Status, read_result

__all__ = ["Cause", "Interruption", "NoReporter", "TrialRecorder", "TrialSource", "interruption_of"]

MAX_ATTEMPTS = 3  # at a trial that is interrupted before its next checkpoint
MAX_FAILURES = 3  # a sweep stops after so many trials in a row that fail before their first epoch


class NoReporter(tune.ProgressReporter):
    """Prints nothing, unlike Tune's reporter for notebooks, which erases what a cell has printed."""

    def setup(self, *_: Any, **__: Any) -> None:
        pass

    def should_report(self, trials: Any, done: bool = False) -> bool:
        return False


class TrialSource(Searcher):
    """Hands proposals to Tune.

    The results of trials are read from the records, and a sweep continues from its study and its event log, never from
    Tune's snapshot. So nothing is told here, and nothing is pickled.
    """

    def __init__(self, queue: TrialQueue):
        super().__init__()  # without a metric, so that Tune does not look for it in every report
        self.queue = queue

    def suggest(self, trial_id: str) -> Any:
        proposal = self.queue.next()
        if isinstance(proposal, Proposal):
            return proposal.config.model_dump(mode="json")
        return Searcher.FINISHED if proposal is Next.FINISHED else None

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a sweep continues when it is run again, not from Tune's snapshot")

    def __getstate__(self) -> dict:
        return {}


class Cause(Enum):
    """Why a trial was interrupted."""

    WORKER_DIED = "its worker died"
    HOST_DIED = "its host died"
    SUPERSEDED = "another process took it over"


@dataclass(frozen=True)
class Interruption:
    """A trial that stopped without a result. Faults of the trial itself are in its report instead."""

    cause: Cause
    reason: str


def interruption_of(trial: Any) -> Interruption:
    """Why Tune lost a trial.

    Tune keeps a fault as text and as a pickle. The text is read, so that nothing is unpickled. This is the only place
    that interprets Ray's wording.
    """
    try:
        _, _, text = Path(trial.error_file).read_text().rpartition("Failure # ")
    except (OSError, TypeError):
        text = ""
    text = text.partition("Some common causes include")[0].partition("\n")[2].strip() or "its worker died"
    reason = text.splitlines()[-1].rpartition("Worker exit detail: ")[2].strip()[:500]
    return Interruption(Cause.HOST_DIED if "node has died" in text else Cause.WORKER_DIED, reason)


class TrialRecorder(tune.Callback):
    """Writes the reports and faults of trials to the records and to the screen.

    An interrupted trial runs again from its checkpoint, unless it was interrupted MAX_ATTEMPTS times since then. The
    death of a host does not count. (Tune's own retries would count all interruptions of the whole trial.)
    """

    def __init__(self, records: Recorder, queue: TrialQueue, progress: Progress):
        self.records, self.queue, self.progress = records, queue, progress
        self.num_interruptions: Counter[str] = Counter()  # since the trial's last evaluation
        self.num_failures = 0  # in a row

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.progress.started(self.queue.proposal(TrialConfig.model_validate(trial.config).key))

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        key, status = result["key"], Status(result["status"])
        if status == Status.SUPERSEDED:
            self._repeat_or_lose(key, Interruption(Cause.SUPERSEDED, result["reason"]))
            return
        self.num_interruptions[key] = 0
        if status == Status.STORAGE_FAILED:
            self.queue.stop(f"{result['reason']}. {STORAGE_HINT}")
        elif status == Status.RUNNING:
            evaluation = result["evaluation"]
            with self.queue.stopping_on_storage_faults():
                self.records.trial_evaluated(key, evaluation)
            self._show(key, {**evaluation, "status": status})
        else:
            self._record_end(key, failure=None if status == Status.FINISHED else (status, result["reason"]))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._repeat_or_lose(TrialConfig.model_validate(trial.config).key, interruption_of(trial))

    def _repeat_or_lose(self, key: str, interruption: Interruption) -> None:
        self.num_interruptions[key] += interruption.cause != Cause.HOST_DIED
        result = read_result(self.records.state.trial_folder(key))
        if self.num_interruptions[key] < MAX_ATTEMPTS and not (result and self._is_complete(key, result)):
            label = self.queue.proposal(key).label
            cause, reason = interruption.cause.value, interruption.reason
            self.progress.say(f"{label}: {cause}, it continues from its last checkpoint ({reason})")
            self.queue.repeat(key)
            return
        self._record_end(key, lost=interruption.reason)

    def _is_complete(self, key: str, result: Mapping[str, Any]) -> bool:
        """Whether a result has everything that the trial was launched for."""
        return not missing_levels(self.queue.proposal(key).config, result)

    def _record_end(self, key: str, *, lost: str = "", failure: tuple[str, str] | None = None) -> None:
        before = self.records.state.trials[key].done
        with self.queue.stopping_on_storage_faults():
            self.records.trial_ended(
                key, lost=lost, failure=failure, is_complete=functools.partial(self._is_complete, key)
            )
            if not self.queue.has_ended(key):  # otherwise the sweep would wait for it for ever
                lacking = failure or (Status.ERROR, "its result lacks something that was asked for")
                self.records.trial_ended(key, failure=lacking, is_complete=lambda result: False)
            trial = self.records.state.trials[key]
            again = {"status": failure[0] if failure else Status.LOST, "reason": trial.unmeasured}
            self._show_end(key, trial.report | (again if before and trial.unmeasured else {}))

    def _show(self, key: str, report: dict[str, Any]) -> None:
        self.progress.update(self.queue.proposal(key), report)

    def _show_end(self, key: str, report: dict[str, Any]) -> None:
        """Show a trial that ended, and stop the sweep if trials keep failing at once."""
        self._show(key, report)
        if report["status"] in (Status.ERROR, Status.LOST) and not report.get("epoch"):
            self.num_failures += 1
            if self.num_failures == MAX_FAILURES:
                self.queue.stop(
                    f"{MAX_FAILURES} trials in a row failed before their first epoch, so no more are started. "
                    f"The last one: {report['reason']}"
                )
        elif report["status"] == Status.FINISHED:
            self.num_failures = 0

    def __getstate__(self) -> dict:
        return {}
