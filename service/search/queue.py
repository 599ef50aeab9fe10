"""Trials to run and the base class of what hands them out.

It records starts, repeats interrupted trials and stops on full disks.
"""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from service.records.recorder import Recorder
from trainables.config import TrialConfig, hyperparameters
from trainables.pruning_schedule import num_epochs

__all__ = ["STORAGE_HINT", "Next", "Proposal", "TrialQueue"]

STORAGE_HINT = "No more trials are started. Free space or make the folder writable, then run the same command again."


class Next(Enum):
    """What `next` returns when there is no proposal."""

    WAIT = "the next proposal depends on a running trial"
    FINISHED = "there are no more trials"


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Args:
        phase: "search" or "confirm".
        arm: The arm's name.
        number: The number of its configuration in the search. The seeds of a configuration share it.
    """

    config: TrialConfig
    phase: str
    arm: str
    number: int

    @functools.cached_property
    def key(self) -> str:
        """The configuration's key, computed once: the driver looks results up by it again and again."""
        return self.config.key

    @functools.cached_property
    def label(self) -> str:
        """Arm and hyperparameters, for people: `sam + wcr lam 1e-05 rho 0.1 lr 0.1 wd 0.03`."""
        values = {name: value for name, value in hyperparameters(dict(self.config)).items() if value is not None}
        short = {"weight_decay": "wd"}
        parts = [self.arm, *(f"{short.get(name, name)} {value:.2g}" for name, value in values.items())]
        if self.phase != "search" or self.config.seed:
            parts.append(f"seed {self.config.seed}")
        return " ".join(parts)

    @functools.cached_property
    def num_epochs(self) -> int:
        """Epochs of the whole trial, in all rounds of its pruning schedule."""
        return num_epochs(self.config)


class TrialQueue(ABC):
    """Hands out trials, repeats those that were interrupted, and stops when the records cannot be written.

    Attributes:
        stopped_because: Why no more trials are started; empty if nothing prevents it.
    """

    def __init__(self, records: Recorder):
        self.records = records
        self.stopped_because = ""
        self._launched: dict[str, Proposal] = {}  # by this process
        self._running: dict[str, None] = {}  # keys of launched trials, without some of those that have ended
        self._repeat: list[Proposal] = []

    @abstractmethod
    def _next(self) -> Proposal | Next:
        """The next trial that was not launched before."""

    @abstractmethod
    def has_ended(self, key: str) -> bool:
        """Whether a trial has failed, or has all the results that were asked for."""

    @property
    @abstractmethod
    def num_left(self) -> int:
        """Number of trials still to be handed out; an upper bound if it is not known."""

    def next(self) -> Proposal | Next:
        """The next trial, recorded as started.

        WAIT while the next trial depends on a running one, or while a running trial may have to be repeated.
        """
        proposal: Proposal | Next = Next.FINISHED
        with self.stopping_on_storage_faults():
            proposal = self._repeat.pop(0) if self._repeat else self._next()
            if isinstance(proposal, Proposal) and not self.stopped_because:
                self._start(proposal)
        if self.stopped_because:
            return Next.FINISHED
        return Next.WAIT if proposal is Next.FINISHED and self._any_running() else proposal

    def _any_running(self) -> bool:
        """Whether a trial that this process launched has not ended."""
        while self._running and self.has_ended(next(iter(self._running))):
            del self._running[next(iter(self._running))]
        return bool(self._running)

    def _start(self, proposal: Proposal) -> None:
        config = proposal.config
        self.records.trial_started(
            proposal.key,
            phase=proposal.phase,
            arm=proposal.arm,
            number=proposal.number,
            config=config.model_dump(mode="json"),
        )
        self.records.state.trials[proposal.key].unmeasured = ""  # what failed in an earlier process is tried again
        self._launched[proposal.key] = proposal
        self._running[proposal.key] = None

    def repeat(self, key: str) -> None:
        """Hand out a launched trial once more."""
        self._repeat.append(self._launched[key])

    def proposal(self, key: str) -> Proposal:
        """The proposal of a trial that this process launched."""
        return self._launched[key]

    def stop(self, reason: str) -> None:
        self.stopped_because = self.stopped_because or reason

    @contextlib.contextmanager
    def stopping_on_storage_faults(self) -> Iterator[None]:
        """Start no more trials once the records cannot be written; what is on disk stays valid."""
        try:
            yield
        except OSError as error:
            self.stop(f"The records cannot be written: {error.strerror}, {error.filename}. {STORAGE_HINT}")
